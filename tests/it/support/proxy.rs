//! A network that breaks: a proxy that resets or falls silent after so many bytes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of a connection once so many bytes of the caller have passed.
#[derive(Clone, Copy)]
pub enum Cut {
    /// Both ends are reset.
    Reset(usize),
    /// Nothing passes any more, in either direction, and nobody is told.
    Silence(usize),
}

/// Forwards each connection to `target`; the first ones as planned, all others whole. Returns where to call.
pub async fn broken_network(target: SocketAddr, plan: &[Cut]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let plan = Arc::new(Mutex::new(VecDeque::from(plan.to_vec())));
    tokio::spawn(async move {
        while let Ok((caller, _)) = listener.accept().await {
            let cut = plan.lock().unwrap().pop_front();
            tokio::spawn(carry(caller, target, cut));
        }
    });
    address
}

async fn carry(mut caller: TcpStream, target: SocketAddr, cut: Option<Cut>) {
    let mut called = TcpStream::connect(target).await.unwrap();
    let Some(cut) = cut else {
        let _ = tokio::io::copy_bidirectional(&mut caller, &mut called).await;
        return;
    };
    let (Cut::Reset(limit) | Cut::Silence(limit)) = cut;
    {
        let (mut from_caller, mut to_caller) = caller.split();
        let (mut from_called, mut to_called) = called.split();
        let forth = async {
            let (mut passed, mut buffer) = (0, [0; 4096]);
            while passed < limit {
                match from_caller.read(&mut buffer).await {
                    Ok(count) if count > 0 => {
                        passed += count;
                        to_called.write_all(&buffer[..count]).await.unwrap();
                    }
                    _ => return,
                }
            }
        };
        let back = tokio::io::copy(&mut from_called, &mut to_caller);
        tokio::select! {
            () = forth => {}
            _ = back => {}
        }
    }
    match cut {
        Cut::Reset(_) => {
            for stream in [&caller, &called] {
                stream.set_zero_linger().unwrap();
            }
        }
        Cut::Silence(_) => std::future::pending().await,
    }
}
