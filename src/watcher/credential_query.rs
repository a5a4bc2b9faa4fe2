//! What two nodes make of each other's credentials.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    context::{Caller, Context},
    session::NodeSession,
};
use crate::{
    node::NodeName,
    probe::credential::{self, Diagnosis},
    question::{Answer, Question},
};

/// Has one node encode a credential and another of the same cluster decode it; none if that explains nothing, if
/// either could not be asked, or if their labels do not say that they are of one cluster: another's node is not
/// trusted with a credential, and has other keys by right.
pub(crate) async fn compare_credentials(
    context: Arc<Context>,
    caller: Caller,
    from: NodeName,
    to: NodeName,
    by: Instant,
) -> Option<Diagnosis> {
    let open = |node| NodeSession::of_running(&context, &caller, node, by);
    let (from, to) = (open(from).await.ok()?, open(to).await.ok()?);
    let labels = &context.settings.labels;
    let cluster = labels.cluster_of(&from.container.labels)?;
    if labels.cluster_of(&to.container.labels) != Some(cluster) {
        return None;
    }
    let encoded = answer(&from, &credential::encode(), by).await?;
    let question = credential::decode(credential::read(&encoded)?);
    credential::judge(&answer(&to, &question, by).await?)
}

async fn answer(session: &NodeSession, question: &Question, by: Instant) -> Option<Answer> {
    let asking = session.link.ask(question, session.reply_by(by));
    let (_, answered) = session.guarded(asking, by).await;
    answered.ok()
}
