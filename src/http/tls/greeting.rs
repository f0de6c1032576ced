//! The first word of a client: TLS, or HTTP on the port of HTTPS.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a handshake begins with: the type of its record.
const HANDSHAKE: u8 = 22;

/// How long one who is turned away may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// Of what one who is turned away sends, at most so much is read.
const HEARD: u64 = 64 << 10;

const NOT_TLS: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 49\r\n\
                       x-content-type-options: nosniff\r\ncache-control: no-store\r\nconnection: close\r\n\r\n\
                       this port speaks HTTPS: use an https:// address\r\n";

/// Whether the client begins with a handshake, once it says something.
pub async fn is_tls(stream: &TcpStream) -> bool {
    let mut first = [0];
    // Of an end or an error the handshake says what there is to say.
    !matches!(stream.peek(&mut first).await, Ok(1) if first[0] != HANDSHAKE)
}

/// Tells who speaks HTTP what to do; all others have nothing to hear.
pub async fn turn_away(mut stream: TcpStream) {
    let mut first = [0];
    let is_http = matches!(stream.peek(&mut first).await, Ok(1) if first[0].is_ascii_uppercase());
    let farewell = async {
        if is_http && stream.write_all(NOT_TLS.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
            // What is not read when the connection ends would take the answer with it.
            let _ = tokio::io::copy(&mut stream.take(HEARD), &mut tokio::io::sink()).await;
        }
    };
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}
