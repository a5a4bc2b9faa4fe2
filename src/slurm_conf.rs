//! Slurm's configuration files in the node, as scripts find them, and one setting of them.

/// The beginning of a shell script that finds the node's slurm.conf, as `$conf`: where the unit of a
/// daemon of Slurm says (`SLURM_CONF`, `-f`), else where packages and configless nodes have it. It is
/// empty if there is none.
macro_rules! find_slurm_conf {
    () => {
        r#"conf=$SLURM_CONF
[ -n "$conf" ] || {
  said=$(systemctl show --property=Environment --property=ExecStart \
    slurmctld slurmd slurmdbd sackd slurmrestd 2>/dev/null)
  case $said in
    *SLURM_CONF=/*) conf=${said#*SLURM_CONF=} ;;
    *" -f /"*) conf=${said#*" -f "} ;;
  esac
  conf=${conf%%[[:space:]\"]*}
}
for found in "$conf" /etc/slurm/slurm.conf /run/slurm/conf/slurm.conf /etc/slurm-llnl/slurm.conf \
  /usr/local/etc/slurm.conf /opt/slurm/etc/slurm.conf; do
  [ -r "$found" ] && break
  found=
done
conf=$found
"#
    };
}
pub(crate) use find_slurm_conf;

/// Returns the path of slurm.conf that the text of a unit file says, by its environment or by an option of
/// the daemon.
pub(crate) fn told_by_unit(text: &str) -> Option<String> {
    let after = |line: &str, sign: &str| {
        let (_, rest) = line.split_once(sign)?;
        let path = rest.split(|c: char| c.is_whitespace() || c == '"').next()?;
        path.starts_with('/').then(|| path.to_owned())
    };
    let lines = || text.lines().map(str::trim_start);
    let variables = lines().filter(|line| line.starts_with("Environment="));
    let commands = lines().filter(|line| line.starts_with("ExecStart="));
    let told = variables.filter_map(|line| after(line, "SLURM_CONF="));
    told.chain(commands.filter_map(|line| after(line, " -f ")))
        .next()
}

/// Returns the value of a setting in lines of a configuration file (slurm.conf(5)): of its last line, without
/// the comment. Names are the same in any case.
pub(crate) fn setting<'a>(lines: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| {
        let line = line.split('#').next()?;
        let (key, value) = line.split_once('=')?;
        let value = value.trim().trim_matches('"').trim();
        (key.trim().eq_ignore_ascii_case(name) && !value.is_empty()).then_some(value)
    };
    lines.lines().filter_map(value).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_says_where_the_configuration_is() {
        let told = |text: &str| told_by_unit(text);
        let path = Some("/srv/slurm.conf".to_owned());
        assert_eq!(
            told("[Service]\nEnvironment=A=b SLURM_CONF=/srv/slurm.conf C=d\n"),
            path
        );
        assert_eq!(told("Environment=\"SLURM_CONF=/srv/slurm.conf\"\n"), path);
        assert_eq!(told("ExecStart=/x/slurmd -D -f /srv/slurm.conf $O\n"), path);
        assert_eq!(
            told("#Environment=SLURM_CONF=/x\nExecStart=/x -f y\n"),
            None
        );
    }

    #[test]
    fn the_last_line_of_a_setting_counts() {
        let lines = "AuthType=auth/munge\n#AuthType=x\n authtype = \"auth/slurm\" # new\nAuthTypes=y\nAuthType=\n";
        assert_eq!(setting(lines, "AuthType"), Some("auth/slurm"));
        assert_eq!(setting(lines, "StorageHost"), None);
    }
}
