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

/// Has one node encode a credential and another decode it; none if that explains nothing, or if either could
/// not be asked.
pub(crate) async fn compare_credentials(
    context: Arc<Context>,
    caller: Caller,
    from: NodeName,
    to: NodeName,
    by: Instant,
) -> Option<Diagnosis> {
    let encoded = answer(&context, &caller, from, &credential::encode(), by).await?;
    let question = credential::decode(credential::read(&encoded)?);
    let decoded = answer(&context, &caller, to, &question, by).await?;
    credential::judge(&decoded)
}

async fn answer(
    context: &Arc<Context>,
    caller: &Caller,
    node: NodeName,
    question: &Question,
    by: Instant,
) -> Option<Answer> {
    let session = NodeSession::of_running(context, caller, node, by)
        .await
        .ok()?;
    let asking = session.link.ask(question, session.reply_by(by));
    let (_, answered) = session.guarded(asking, by).await;
    answered.ok()
}
