//! A raw TCP server that speaks first, as SMTP and MySQL do, and then echoes: what a proxy that waits for the client's
//! first bytes would hang on.

use std::sync::Arc;

use tokio::{
    io::{AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Serves until `ended` turns true.
pub(crate) async fn serve(listener: TcpListener, name: Arc<str>, mut ended: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(talk(stream, name.clone()));
                }
                Err(error) => eprintln!("accept: {error}"),
            },
            _ = ended.wait_for(|ended| *ended) => return,
        }
    }
}

/// How a client ends is no event for a sample application.
async fn talk(mut stream: TcpStream, name: Arc<str>) {
    let greeting = format!("220 {name} greets\r\n");
    if stream.write_all(greeting.as_bytes()).await.is_ok() {
        let (mut from, mut to) = stream.split();
        let _ = copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn it_speaks_first_and_echoes_to_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (end, ended) = watch::channel(false);
        let server = tokio::spawn(serve(listener, "mail".into(), ended));
        let mut client = TcpStream::connect(address).await.expect("listening");
        let mut greeting = [0; 17];
        client.read_exact(&mut greeting).await.expect("greeted");
        assert_eq!(&greeting, b"220 mail greets\r\n");
        client.write_all(b"hello").await.expect("open");
        client.shutdown().await.expect("open");
        let mut echo = String::new();
        client.read_to_string(&mut echo).await.expect("ended");
        assert_eq!(echo, "hello");
        end.send_replace(true);
        server.await.expect("ends by itself");
    }
}
