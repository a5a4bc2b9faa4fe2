//! Tokens of pages: where a page has ended, bound to what was listed, and sealed, so that nobody makes one.

use std::{
    fmt::Write as _,
    hash::{BuildHasher as _, RandomState},
};

use crate::{
    cluster::{NodeSelector, Position},
    node::Role,
};

/// The tokens of one server. Its key is chosen by chance when the server starts.
#[derive(Debug, Clone, Default)]
pub(super) struct PageTokens(RandomState);

/// How many hexadecimal digits the seal has.
const SEAL: usize = 16;

impl PageTokens {
    /// Makes the token of the page that begins behind a position.
    pub(super) fn write(&self, behind: &Position, selector: &NodeSelector) -> String {
        let role = behind.role.map_or("", Role::as_str);
        let parts = [
            &behind.realm,
            &behind.cluster,
            role,
            &behind.name,
            &behind.id,
        ];
        // A length before each part: a label may contain whatever one would set between them.
        let parts = parts.map(|part| format!("{}:{part}", part.len()));
        let mut position = String::new();
        for byte in parts.concat().bytes() {
            // Writing to a string cannot fail.
            let _ = write!(position, "{byte:02x}");
        }
        format!("{}{position}", self.seal(&position, selector))
    }

    /// Reads a token; none if it is not one of this server's for that selector.
    pub(super) fn read(&self, token: &str, selector: &NodeSelector) -> Option<Position> {
        let (seal, position) = token.split_at_checked(SEAL)?;
        if seal != self.seal(position, selector) {
            return None;
        }
        let byte = |at: usize| u8::from_str_radix(position.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..position.len()).step_by(2).map(byte).collect();
        let text = String::from_utf8(bytes?).ok()?;
        let mut rest = text.as_str();
        let mut part = || {
            let (length, behind) = rest.split_once(':')?;
            let (part, behind) = behind.split_at_checked(length.parse().ok()?)?;
            rest = behind;
            Some(part.to_owned())
        };
        let (realm, cluster, role) = (part()?, part()?, part()?);
        Some(Position {
            realm,
            cluster,
            role: role.parse().ok(),
            name: part()?,
            id: part()?,
        })
    }

    fn seal(&self, position: &str, selector: &NodeSelector) -> String {
        format!("{:016x}", self.0.hash_one((position, selector)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(realm: &str, role: Option<Role>, name: &str) -> Position {
        Position {
            realm: realm.to_owned(),
            cluster: "c: 1".to_owned(),
            role,
            name: name.to_owned(),
            id: "ab".repeat(32),
        }
    }

    #[test]
    fn a_token_is_read_back_for_the_same_selector_alone() {
        let tokens = PageTokens::default();
        let all = NodeSelector::default();
        for role in [None, Some(Role::Worker)] {
            let behind = position("ü:", role, "w-1");
            let token = tokens.write(&behind, &all);
            assert_eq!(tokens.read(&token, &all), Some(behind));
            let other = NodeSelector {
                realm: Some("ü:".to_owned()),
                ..all.clone()
            };
            assert_eq!(tokens.read(&token, &other), None);
            assert_eq!(PageTokens::default().read(&token, &all), None);
        }
    }

    #[test]
    fn a_token_that_was_changed_is_none() {
        let tokens = PageTokens::default();
        let all = NodeSelector::default();
        let token = tokens.write(&position("r", None, "w-1"), &all);
        for at in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(tokens.read(&forged, &all), None, "{forged}");
        }
    }

    proptest! {
        #[test]
        fn anything_may_come(token in "\\PC{0,60}") {
            prop_assert_eq!(PageTokens::default().read(&token, &NodeSelector::default()), None);
        }
    }
}
