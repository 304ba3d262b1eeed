//! Asks a server whether it is ready.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const INTERVAL: Duration = Duration::from_millis(25);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns when the server whose admin interface is at `admin` says that it is ready.
pub(super) async fn until_ready(admin: SocketAddr) {
    while !matches!(tokio::time::timeout(ANSWER_TIMEOUT, is_ready(admin)).await, Ok(Ok(true))) {
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn is_ready(admin: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut status = [0_u8; "HTTP/1.1 200".len()];
    stream.read_exact(&mut status).await?;
    Ok(&status == b"HTTP/1.1 200")
}
