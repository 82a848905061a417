//! The command line of the sample application.

use std::net::SocketAddr;

const EXAMPLES: &str = "\
Examples:
  sluice-example-app --listen 127.0.0.1:18080 --name orders
      answer on one address

  sluice-example-app --listen 127.0.10.1:18080 --listen 127.0.10.2:18080 --name orders
      answer on two, with one `served` counter

  curl 'http://127.0.0.1:18080/v1/catalog?cache=max-age%3D60'
      what was asked, as JSON, with Cache-Control: max-age=60

  curl 'http://127.0.0.1:18080/?status=503&delay=200ms'
      a slow failure

What a query may ask for (anything else in it is only echoed):
  status=CODE         the status, 200 to 599
  delay=200ms         wait before answering, at most 30s
  bytes=N             N bytes of text in place of the JSON, at most 8388608
  cache=VALUE         Cache-Control: VALUE
  etag=TAG            ETag: \"TAG\", and 304 to a request that holds it
  header=Name:value   one more response header, at most 16

/healthz answers 200 and counts nothing; over HTTP/2 the gRPC health service does.";

/// A small HTTP/1.1 and cleartext HTTP/2 server that answers with what it was asked.
#[derive(clap::Parser, Debug, Clone)]
#[command(name = "sluice-example-app", version, after_help = EXAMPLES)]
pub struct Args {
    /// Address to answer on; may be repeated.
    #[arg(long, value_name = "ADDR", required = true)]
    pub listen: Vec<SocketAddr>,
    /// Name given in every answer, so that a caller sees which instance it reached.
    #[arg(long, default_value = "example")]
    pub name: String,
    /// Raw TCP address on which the server speaks first and then echoes; may be repeated.
    #[arg(long, value_name = "ADDR")]
    pub greet: Vec<SocketAddr>,
    /// End at SIGTERM at once, without waiting for requests in flight: as many applications do.
    #[arg(long)]
    pub end_at_once: bool,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::Args;

    #[test]
    fn listen_may_be_repeated_and_must_be_there() {
        let args = Args::try_parse_from(["app", "--listen", "127.0.0.1:1", "--listen", "[::1]:2"])
            .expect("both addresses are well formed");
        assert_eq!(args.listen.len(), 2);
        assert_eq!(args.name, "example");
        assert!(Args::try_parse_from(["app"]).is_err());
    }
}
