//! nginx, set up to do what the sidecar does: one process, kept-alive connections on both sides.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{Server, http, poll, running::Running};

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// nginx as it is installed.
pub struct Nginx {
    program: PathBuf,
    /// Its version.
    pub version: String,
}

impl Nginx {
    /// The one that a shell would start, or where Debian has it.
    pub fn find() -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path)
            .chain([PathBuf::from("/usr/sbin")])
            .map(|dir| dir.join("nginx"))
            .find(|program| program.is_file())
            .context("nginx is not installed")?;
        let said = Command::new(&program)
            .arg("-v")
            .output()
            .context("nginx does not tell its version")?
            .stderr;
        let said = String::from_utf8_lossy(&said);
        let version = said
            .rsplit_once("nginx/")
            .map_or("", |(_, version)| version.trim());
        Ok(Self {
            program,
            version: version.to_owned(),
        })
    }

    /// Starts it on a core, in front of the upstream.
    pub fn start(
        &self,
        core: usize,
        dir: &Path,
        listen: SocketAddr,
        origin: SocketAddr,
    ) -> Result<Server> {
        let dir = dir.join("nginx");
        fs::create_dir(&dir)?;
        let file = dir.join("nginx.conf");
        fs::write(&file, config(&dir, listen, origin))?;
        let mut command = Command::new(&self.program);
        command
            .arg("-p")
            .arg(&dir)
            .arg("-c")
            .arg(&file)
            .arg("-e")
            .arg("stderr");
        let mut running = Running::start("nginx", core, &dir, &mut command)?;
        poll::until(PATIENCE, || {
            running.check()?;
            let head = http::exchange(listen, &http::get("/plain/128", &[]))?;
            ensure!(head.status() == 200, "nginx answers {}", head.status());
            Ok(())
        })?;
        Ok(Server {
            running,
            address: listen,
        })
    }
}

fn config(dir: &Path, listen: SocketAddr, origin: SocketAddr) -> String {
    let dir = dir.display();
    let scratch: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|use_of| format!("    {use_of}_temp_path {dir}/{use_of};\n"))
        .collect();
    format!(
        r#"daemon off;
master_process off;
pid {dir}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
{scratch}    access_log off;
    log_format bench escape=json '{{"time":"$time_iso8601","method":"$request_method","target":"$request_uri","host":"$host","status":$status,"bytes":$body_bytes_sent,"seconds":$request_time,"peer":"$remote_addr","upstream":"$upstream_addr"}}';
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    proxy_cache_path {dir}/cache levels=1:2 keys_zone=answers:10m;
    limit_req_zone $http_x_client zone=clients:10m rate=1000000r/s;
    upstream origin {{ server {origin}; keepalive 128; keepalive_requests 1000000000; }}
    server {{
        listen {listen};
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_buffers 8 16k;
        location / {{ proxy_pass http://origin; }}
        location /logged/ {{ proxy_pass http://origin; access_log /dev/null bench buffer=64k; }}
        location /limited/ {{ proxy_pass http://origin; limit_req zone=clients burst=100000 nodelay; }}
        location /cached/ {{ proxy_pass http://origin; proxy_cache answers; }}
    }}
}}
"#
    )
}
