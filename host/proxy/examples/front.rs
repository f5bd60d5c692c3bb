//! The app proxy in front of one fixed backend, for measurements: `front LISTEN BACKEND`.
#![allow(clippy::print_stdout, reason = "tells where it listens")]

use quarterdeck_proxy::{Proxy, ProxyOptions, Replica, Service};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (listen, backend) = (args.next().ok_or("LISTEN is missing")?, args.next().ok_or("BACKEND is missing")?);
    let listener = TcpListener::bind(listen).await?;
    let proxy = Proxy::new("secret", ProxyOptions::default(), None);
    proxy.update(vec![Service {
        id: Uuid::from_u128(1),
        name: "bench".to_owned(),
        is_public: true,
        replicas: vec![Replica { route: Uuid::from_u128(2), authority: backend, weight: 1.0 }],
    }]);
    println!("listening on {}", listener.local_addr()?);
    proxy.serve(listener, CancellationToken::new()).await?;
    Ok(())
}
