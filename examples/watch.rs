//! A client of the service: waits for nodes, and prints each change.
//!
//! ```text
//! cargo run --example watch --no-default-features --features client -- http://127.0.0.1:7323 NODE…
//! ```

use readyd::client::{
    NodeTarget, ReadinessServiceClient, WaitReadyRequest, wait_ready_response::Event,
};

#[tokio::main]
#[allow(clippy::print_stdout)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next().ok_or("usage: watch SERVER NODE…")?;
    let nodes = arguments
        .map(|node| NodeTarget {
            node,
            ..Default::default()
        })
        .collect();

    let mut client = ReadinessServiceClient::connect(server).await?;
    let request = WaitReadyRequest {
        nodes,
        ..Default::default()
    };
    let mut messages = client.wait_ready(request).await?.into_inner();
    // A wait that did not end ready ends with an error status after the result. The question mark
    // returns that error.
    while let Some(message) = messages.message().await? {
        match message.event {
            Some(Event::Node(node)) => println!("{} {:?} {}", node.node, node.state(), node.reason),
            Some(Event::Result(result)) => println!("{:?} {}", result.verdict(), result.message),
            // A wait for nodes tells of nothing else.
            Some(_) | None => {}
        }
    }
    Ok(())
}
