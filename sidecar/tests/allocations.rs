//! What requests and bodies allocate, counted by this program's own allocator: budgets that a change must not pass unseen.
//! The client and the application allocate nothing while it counts, and nothing else runs in this process.
//!
//! `unsafe` is here for [`GlobalAlloc`] alone: each function does what the system's does, with the same arguments, and counts.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use sluice_pipeline::{
    Program, UnitSet,
    program::{Content, Held},
};
use sluice_process::Shutdown;
use sluice_sidecar::{
    cli,
    control::DataPlane as _,
    data::{ConnectionLimits, Plan, start},
    listeners::bind_threads,
    log::AccessLog,
    shared::{Shared, SharedLimits},
};
use sluice_snapshot::{
    Hash, Unit, UnitName,
    unit::{
        Inbound, ObjectRef, Route,
        inbound::{InboundPort, RouteUse},
        route::{
            Action, HeaderEdits, Match, PathMatch, RequestLimits, Rule, Target, Timeouts,
            WeightedTarget,
        },
    },
};

/// Allocations of one plain request, in and out, all threads together.
const PER_REQUEST: f64 = 16.0;
/// Bytes allocated for each MiB that passes.
const PER_MIB: f64 = 16.0 * 1024.0;
/// The bodies that are passed.
const BODY: usize = 32 << 20;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

struct Counting;

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Relaxed);
    BYTES.fetch_add(bytes as u64, Relaxed);
}

// SAFETY: each call is the system allocator's own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations and bytes of what `work` does.
fn counted(work: impl FnOnce()) -> (f64, f64) {
    let before = (ALLOCATIONS.load(Relaxed), BYTES.load(Relaxed));
    work();
    let after = (ALLOCATIONS.load(Relaxed), BYTES.load(Relaxed));
    ((after.0 - before.0) as f64, (after.1 - before.1) as f64)
}

/// Reads to the end of a head; how many bytes of the body came with it.
fn head(stream: &mut TcpStream, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).expect("readable");
        if read == 0 {
            return usize::MAX;
        }
        filled += read;
        if let Some(end) = buffer[..filled]
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
        {
            return filled - end - 4;
        }
    }
}

/// Reads what is left of a body.
fn drain(stream: &mut TcpStream, buffer: &mut [u8], mut left: usize) {
    while left > 0 {
        let most = left.min(buffer.len());
        let read = stream.read(&mut buffer[..most]).expect("readable");
        assert!(read > 0, "it ended {left} bytes early");
        left -= read;
    }
}

/// An application on one connection after the other: `GET /` is answered with two bytes, `/down` with a large body, and
/// what comes for `/up` is read.
fn app(listener: &TcpListener) {
    let mut buffer = vec![0; 256 << 10];
    let body = vec![b'x'; 256 << 10];
    while let Ok((mut stream, _)) = listener.accept() {
        loop {
            let more = head(&mut stream, &mut buffer);
            if more == usize::MAX {
                break;
            }
            let asked = |what: &[u8]| buffer.starts_with(what);
            if asked(b"GET /down") {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 33554432\r\n\r\n")
                    .expect("open");
                (0..BODY / body.len()).for_each(|_| stream.write_all(&body).expect("open"));
                continue;
            }
            if asked(b"POST /up") {
                drain(&mut stream, &mut buffer, BODY - more);
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .expect("open");
        }
    }
}

/// One data thread in front of `app`, with one route.
fn sidecar(app: SocketAddr) -> (SocketAddr, Shutdown) {
    let (shared, _inbox) = Shared::new(SharedLimits::default());
    let shutdown = Shutdown::default();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let plan = Plan {
        inbound: vec![cli::Inbound { listen, app }],
        pod_ips: Vec::new(),
        capture: None,
        edge: None,
        limits: ConnectionLimits::default(),
        quiet: Duration::ZERO,
        drain_timeout: Duration::from_secs(1),
        log: AccessLog::off(),
        shutdown: shutdown.clone(),
    };
    let sockets = bind_threads(&[listen], None, 1).expect("a free port");
    let running = start(&shared, &plan, sockets).expect("it starts");
    let address = running.listening[0];
    let set = units(address.port());
    let program = Program::compile(&set, None).expect("it compiles");
    shared.install(program, &set);
    // The threads end with the process.
    std::mem::forget((running, shared));
    (address, shutdown)
}

fn units(port: u16) -> UnitSet {
    let name = UnitName::route("shop", "orders");
    let rule = Rule {
        name: "all".into(),
        matches: vec![Match {
            path: PathMatch::Prefix("/".into()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
            cookies: Vec::new(),
        }],
        auth: None,
        policies: Vec::new(),
        cache: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        rewrite: None,
        mirrors: Vec::new(),
        cors: None,
        timeouts: Timeouts::default(),
        action: Action::Backends(vec![WeightedTarget::plain(1, Target::App)]),
        broken: None,
    };
    let route = Route {
        object: ObjectRef::new("ApiRoute", "shop", "orders"),
        request_limits: RequestLimits {
            max_body: 2 * BODY as u64,
            ..RequestLimits::default()
        },
        providers: Vec::new(),
        rules: vec![rule],
        broken: None,
    };
    let inbound = Inbound {
        listeners: Vec::new(),
        tables: Vec::new(),
        namespace: "shop".into(),
        services: vec!["orders".into()],
        trust_domain: "shop.example".into(),
        settings: None,
        ports: vec![InboundPort {
            port,
            protocol: Default::default(),
            routes: vec![RouteUse {
                unit: name.clone(),
                hostnames: Vec::new(),
            }],
        }],
    };
    let held = |unit: Unit| Held {
        hash: Hash::of(&unit.encode()),
        content: Content::Unit(Arc::new(unit)),
    };
    let units = [
        (name, Unit::Route(route)),
        (UnitName::inbound("shop", "orders"), Unit::Inbound(inbound)),
    ];
    UnitSet {
        units: units
            .into_iter()
            .map(|(name, unit)| (name, held(unit)))
            .collect(),
    }
}

/// One test: a second one would run beside it and be counted.
#[test]
fn requests_and_bodies_stay_within_their_budgets() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let behind = listener.local_addr().expect("bound");
    std::thread::spawn(move || app(&listener));
    let (address, shutdown) = sidecar(behind);
    let mut client = TcpStream::connect(address).expect("it listens");
    let mut buffer = vec![0; 256 << 10];
    let plain = b"GET / HTTP/1.1\r\nhost: orders\r\nuser-agent: test\r\naccept: */*\r\naccept-encoding: gzip\r\n\
                  x-request-id: 5f0c2f64\r\n\r\n";
    let mut ask = |request: &[u8], sent: usize, answer: usize| {
        client.write_all(request).expect("open");
        (0..sent / plain.len()).for_each(|_| client.write_all(plain).expect("open"));
        client
            .write_all(&plain[..sent % plain.len()])
            .expect("open");
        let more = head(&mut client, &mut buffer);
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "it was refused");
        drain(&mut client, &mut buffer, answer - more);
    };
    (0..100).for_each(|_| ask(plain, 0, 2));

    let (allocations, bytes) = counted(|| (0..1000).for_each(|_| ask(plain, 0, 2)));
    let (per_request, bytes) = (allocations / 1000.0, bytes / 1000.0);
    println!("a plain request: {per_request:.1} allocations, {bytes:.0} bytes");

    let mib = (BODY >> 20) as f64;
    let download = b"GET /down HTTP/1.1\r\nhost: orders\r\n\r\n";
    let upload = b"POST /up HTTP/1.1\r\nhost: orders\r\ncontent-length: 33554432\r\n\r\n";
    // The first bodies of a connection let its buffers grow.
    ask(download, 0, BODY);
    ask(upload, BODY, 2);
    let (_, down) = counted(|| ask(download, 0, BODY));
    let (_, up) = counted(|| ask(upload, BODY, 2));
    println!("a MiB down: {:.0} bytes, up: {:.0}", down / mib, up / mib);
    shutdown.begin("the test ends");

    assert!(per_request <= PER_REQUEST, "{per_request} allocations");
    assert!(down / mib <= PER_MIB, "{} bytes per MiB down", down / mib);
    assert!(up / mib <= PER_MIB, "{} bytes per MiB up", up / mib);
}
