//! nginx: one process.

use std::{ffi::OsString, fs, path::Path};

use anyhow::Result;

use super::{Kind, Place, System};

pub const KIND: Kind = Kind {
    system: System::Nginx,
    program: "nginx",
    version: "-v",
    configure,
};

fn configure(place: &Place<'_>) -> Result<Vec<OsString>> {
    let dir = place.dir;
    fs::create_dir(dir.join("cache"))?;
    let certificate = place.certificate()?;
    let file = place.file("nginx.conf", &text(dir, &certificate, place))?;
    let mut args = Vec::new();
    for (flag, value) in [("-p", dir), ("-c", &file), ("-e", Path::new("stderr"))] {
        args.extend([flag.into(), value.into()]);
    }
    Ok(args)
}

fn text(dir: &Path, certificate: &Path, place: &Place<'_>) -> String {
    let (listen, origin) = (place.listen, place.origin);
    let (secure, http2) = (place.secure, place.http2);
    let (dir, certificate) = (dir.display(), certificate.display());
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
        listen {http2} http2;
        listen {secure} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
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
