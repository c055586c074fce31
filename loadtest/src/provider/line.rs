//! The provider's end of a connection, which may be cut.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fault::Kind;
use crate::Result;
use crate::http::Malformed;

/// What is no HTTP.
const GARBAGE: &[u8] = b"\x16\x03\x01\x00\xffSSH-2.0-\x00\r\n\r\n<!doctype \xfe\xff>\r\n\r\n";

/// A connection of the provider.
pub struct Line {
    stream: TcpStream,
    /// So many bytes may still be sent, if not all.
    left: Option<u64>,
}

impl Line {
    /// Over a connection that was accepted.
    pub fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Line { stream, left: None })
    }

    /// Reads something; a closed connection and a full buffer are errors.
    pub async fn read(&mut self, room: &mut [u8]) -> Result<usize> {
        match self.stream.read(room).await? {
            0 => Err(Malformed("closed, or a head that is too long").into()),
            length => Ok(length),
        }
    }

    /// Sends all of it, or what may still be sent: then it is an error.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let length = match &mut self.left {
            None => bytes.len(),
            Some(left) => {
                let length = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                length
            }
        };
        self.stream.write_all(&bytes[..length]).await?;
        match length == bytes.len() {
            true => Ok(()),
            false => Err("cut, as the script says".into()),
        }
    }

    /// Fails in this way. An error ends the connection; a cut comes with the answer.
    pub async fn fail(&mut self, kind: Kind) -> Result<()> {
        match kind {
            Kind::Status(status) => super::answer::send_error(self, status, "scripted").await,
            Kind::Cut(bytes) => {
                self.left = Some(bytes);
                Ok(())
            }
            Kind::Reset => {
                self.stream.set_zero_linger()?;
                Err("reset, as the script says".into())
            }
            Kind::Garbage => {
                self.stream.write_all(GARBAGE).await?;
                Err("garbage, as the script says".into())
            }
            // Until the other side closes; what it sends is not looked at.
            Kind::Silence => loop {
                self.read(&mut [0; 1024]).await?;
            },
        }
    }
}
