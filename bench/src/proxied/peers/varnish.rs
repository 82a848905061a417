//! Varnish: answers in memory. Its worker threads all run on the one core.

use std::ffi::OsString;

use anyhow::Result;

use super::{Kind, Place, System};

pub const KIND: Kind = Kind {
    system: System::Varnish,
    program: "varnishd",
    version: "-V",
    configure,
};

fn configure(place: &Place<'_>) -> Result<Vec<OsString>> {
    let (host, port) = (place.origin.ip(), place.origin.port());
    let file = place.file(
        "bench.vcl",
        &format!("vcl 4.1;\nbackend origin {{ .host = \"{host}\"; .port = \"{port}\"; }}\n"),
    )?;
    let words = [
        "-F",
        "-j",
        "none",
        "-a",
        &place.listen.to_string(),
        "-s",
        "malloc,64m",
        "-p",
        "thread_pools=1",
        "-p",
        "timeout_idle=600",
        "-n",
    ];
    let mut args: Vec<OsString> = words.map(OsString::from).into();
    args.extend([place.dir.join("work").into(), "-f".into(), file.into()]);
    Ok(args)
}
