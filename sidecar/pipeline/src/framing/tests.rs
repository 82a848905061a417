//! Where messages end, what is refused, and that neither depends on how the bytes arrive.

use proptest::prelude::*;

use super::{head::Head, scanner::Scanner, *};

/// What a caller sees of `pieces`: sound bytes, and the fault.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    sound: Vec<u8>,
    fault: Option<Fault>,
}

/// Shows pieces as a caller does: what is not understood is kept and shown again.
fn show<'p>(scanner: &mut Scanner, pieces: impl IntoIterator<Item = &'p [u8]>) -> Seen {
    let (mut held, mut sound) = (Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        match scanner.advance(&held) {
            Ok(understood) => sound.extend(held.drain(..understood)),
            Err(refused) => {
                sound.extend(held.drain(..refused.sound));
                return Seen {
                    sound,
                    fault: Some(refused.fault),
                };
            }
        }
    }
    Seen { sound, fault: None }
}

fn requests(text: &str) -> Seen {
    show(&mut Scanner::requests(), [text.as_bytes()])
}

fn fault(text: &str) -> Fault {
    let seen = requests(text);
    assert_eq!(seen.sound, b"", "{text:?}");
    seen.fault.unwrap_or_else(|| panic!("accepted: {text:?}"))
}

/// A GET with these field lines.
fn get(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n")
}

/// A POST in chunks.
fn chunks(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

fn answers(method: &str, text: &str) -> Seen {
    let mut scanner = Scanner::responses();
    scanner.expect(method == "HEAD");
    show(&mut scanner, [text.as_bytes()])
}

#[test]
fn messages_follow_one_another() {
    for text in [
        get(""),
        get("") + &get("X-Y: z\r\n"),
        format!("\r\n{}", get("")),
        "GET / HTTP/1.0\r\nHost: a.example\r\n\r\n".into(),
        "GET http://A.example:80/x?y HTTP/1.1\r\nHost: a.example:80\r\n\r\n".into(),
        "OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n".into(),
        get("X:\t \r\nY: \u{e9}\r\n"),
        chunks("4\r\nGET \r\n0\r\n\r\n") + &get(""),
        chunks("00a\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n") + &get(""),
        get("Content-Length: 3\r\n") + "\n\0\x7f" + &get(""),
        get("Content-Length: 0\r\n") + &get(""),
    ] {
        let seen = requests(&text);
        assert_eq!(
            (seen.fault, seen.sound.len()),
            (None, text.len()),
            "{text:?}"
        );
    }
}

#[test]
fn heads_that_two_readers_could_read_differently_are_refused() {
    for (text, expected) in [
        (get("").replace("\r\n", "\n"), Fault::BareLineFeed),
        (get("A: b\nC: d\r\n"), Fault::BareLineFeed),
        (get("A: b\rC: d\r\n"), Fault::BareCarriageReturn),
        (get("A: b\r\r\n"), Fault::BareCarriageReturn),
        (get("A: b\0\r\n"), Fault::ControlByte),
        (get("A\x01: b\r\n"), Fault::ControlByte),
        (get("A: b\x7f\r\n"), Fault::ControlByte),
        (get("A: b\r\n c\r\n"), Fault::Folded),
        (get("A: b\r\n\tc\r\n"), Fault::Folded),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n".into(), Fault::Folded),
        (get("A : b\r\n"), Fault::SpaceBeforeColon),
        (get("A\t: b\r\n"), Fault::SpaceBeforeColon),
        (get("A b: c\r\n"), Fault::FieldName),
        (get(": c\r\n"), Fault::FieldName),
        (get("A(: c\r\n"), Fault::FieldName),
        (get("Abc\r\n"), Fault::NoColon),
        ("GET / HTTP/1.1\r\n\r\n".into(), Fault::NoHost),
        (get("Host: a.example\r\n"), Fault::ManyHosts),
        (get("").replace("a.example", "a.example, b"), Fault::Host),
        (get("").replace("a.example", ""), Fault::Host),
        (get("").replace("a.example", "u@a"), Fault::Host),
        (
            get("").replace("GET /", "GET http://b.example/"),
            Fault::HostDiffers,
        ),
        (
            get("Content-Length: 1\r\nContent-Length: 1\r\n"),
            Fault::ManyLengths,
        ),
        (
            get("Content-Length: 1\r\nContent-Length: 2\r\n"),
            Fault::ManyLengths,
        ),
        (get("Content-Length: 1, 1\r\n"), Fault::Length),
        (get("Content-Length: +1\r\n"), Fault::Length),
        (get("Content-Length:\r\n"), Fault::Length),
        (
            get("Content-Length: 9223372036854775808\r\n"),
            Fault::Length,
        ),
        (
            get("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
            Fault::LengthAndCoding,
        ),
        (get("Transfer-Encoding: gzip, chunked\r\n"), Fault::Coding),
        (
            get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            Fault::Coding,
        ),
        (
            get("Transfer-Encoding: \u{b}chunked\r\n"),
            Fault::ControlByte,
        ),
        (get("Transfer-Encoding: identity\r\n"), Fault::Coding),
        (
            get("Transfer-Encoding: chunked\r\n").replace("/1.1", "/1.0"),
            Fault::CodingOfHttp10,
        ),
        (get("").replace("HTTP/1.1", "HTTP/1.2"), Fault::Version),
        (get("").replace("HTTP/1.1", "http/1.1"), Fault::RequestLine),
        (get("").replace("HTTP/1.1", "HTTP/2.0"), Fault::Version),
        (get("").replace(" HTTP/1.1", ""), Fault::RequestLine),
        (get("").replace("GET / ", "GET /  "), Fault::RequestLine),
        (get("").replace("GET / ", "GET  / "), Fault::RequestLine),
        (get("").replace("GET / ", "GET\t/ "), Fault::Method),
        (get("").replace("GET ", " GET "), Fault::Method),
        (get("").replace("GET", "G(T"), Fault::Method),
        (
            get("").replace("GET /", "CONNECT a.example:80"),
            Fault::Connect,
        ),
        (
            get("").replace("GET /", "GET a.example:80"),
            Fault::TargetForm,
        ),
        (get("").replace("GET /", "GET *"), Fault::AsteriskForm),
        (get("").replace("GET /", "GET /a#b"), Fault::TargetByte),
        (get("").replace("GET /", "GET /\u{e9}"), Fault::TargetByte),
        (
            get("").replace("GET /", "GET ftp://a.example/"),
            Fault::TargetForm,
        ),
        (format!("\r\n\r\n{}", get("")), Fault::RequestLine),
        (format!("\n{}", get("")), Fault::BareLineFeed),
        ("PRIX * HTTP/2.0\r\n\r\n".into(), Fault::Version),
        ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".into(), Fault::Version),
        (
            get("").replace("/ ", &format!("/{} ", "a".repeat(40_000))),
            Fault::RequestLineTooLong,
        ),
        (
            get(&format!("A: {}\r\n", "a".repeat(40_000))),
            Fault::LineTooLong,
        ),
        (get(&"A: b\r\n".repeat(100)), Fault::TooManyFields),
        (
            get(&format!("A: {}\r\n", "a".repeat(20_000)).repeat(4)),
            Fault::HeadTooLong,
        ),
    ] {
        assert_eq!(fault(&text), expected, "{:.200}", text);
    }
}

#[test]
fn chunks_that_two_readers_could_read_differently_are_refused() {
    for (body, expected) in [
        ("\r\n", Fault::ChunkSize),
        ("g\r\n", Fault::ChunkSize),
        ("-1\r\n", Fault::ChunkSize),
        ("0x1\r\n", Fault::ChunkSize),
        ("11111111111111111\r\n", Fault::ChunkSize),
        ("ffffffffffffffff0\r\n", Fault::ChunkSize),
        ("1\na\r\n0\r\n\r\n", Fault::BareLineFeed),
        ("1\r\na\n0\r\n\r\n", Fault::BareLineFeed),
        ("1\r\nab\r\n0\r\n\r\n", Fault::ChunkEnd),
        ("1\r\na\r0\r\n\r\n", Fault::ChunkEnd),
        ("1;a=b\r\na\r\n0\r\n\r\n", Fault::ChunkExtension),
        ("1 \r\na\r\n0\r\n\r\n", Fault::ChunkExtension),
        ("0;\r\n\r\n", Fault::ChunkExtension),
        ("1\rX\na\r\n0\r\n\r\n", Fault::BareCarriageReturn),
        ("0\r\nA: b\n\r\n", Fault::BareLineFeed),
        ("0\r\nA : b\r\n\r\n", Fault::SpaceBeforeColon),
        ("0\r\n A: b\r\n\r\n", Fault::Folded),
        ("0\r\nContent-Length: 5\r\n\r\n", Fault::Trailer),
        ("0\r\ntransfer-encoding: chunked\r\n\r\n", Fault::Trailer),
        ("0\r\nHost: b\r\n\r\n", Fault::Trailer),
        ("0\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n", Fault::Trailer),
        ("0\r\nAuthorization: x\r\n\r\n", Fault::Trailer),
    ] {
        assert_eq!(fault(&chunks(body)), expected, "{body:?}");
    }
    let many = format!("0\r\n{}\r\n", "A: b\r\n".repeat(65));
    assert_eq!(fault(&chunks(&many)), Fault::TrailersTooLong);
    let long = format!("0\r\nA: {}", "a".repeat(9_000));
    assert_eq!(fault(&chunks(&long)), Fault::TrailersTooLong);
}

#[test]
fn a_fault_leaves_the_messages_before_it_alone() {
    let good = get("");
    let seen = requests(&(good.clone() + &good + "GET / HTTP/1.1\r\nA : b\r\n\r\n"));
    assert_eq!(seen.sound, (good.clone() + &good).into_bytes());
    assert_eq!(seen.fault, Some(Fault::SpaceBeforeColon));

    let mut scanner = Scanner::requests();
    let begun = chunks("3\r\nabc\r\n");
    assert_eq!(scanner.advance(begun.as_bytes()), Ok(begun.len()));
    let refused = scanner.advance(b"zz").expect_err("refused");
    assert_eq!((refused.sound, refused.begun), (0, true));
}

#[test]
fn what_follows_a_request_for_another_protocol_waits_for_the_answer() {
    let asked = get("Upgrade: websocket\r\n");
    let text = asked.clone() + "\x01\x00";
    for switched in [true, false] {
        let mut scanner = Scanner::requests();
        let seen = show(&mut scanner, [text.as_bytes()]);
        assert_eq!((seen.sound, seen.fault), (asked.clone().into_bytes(), None));
        assert!(scanner.is_undecided());
        if switched {
            scanner.pass_all();
            assert_eq!(scanner.advance(b"\x01\x00"), Ok(2));
        } else {
            scanner.stay();
            assert!(scanner.advance(b"\x01\x00").is_err());
        }
    }
}

#[test]
fn http2_passes() {
    let mut scanner = Scanner::requests();
    let text = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let seen = show(&mut scanner, text.as_bytes().chunks(1));
    assert_eq!((seen.sound, seen.fault), (text.as_bytes().to_vec(), None));
    assert!(scanner.is_opaque());
}

#[test]
fn answers_end_where_they_say() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for (method, text, fault) in [
        ("GET", ok, None),
        ("GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", None),
        ("GET", "HTTP/1.0 200 OK\r\n\r\nanything\r\n\0", None),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            None,
        ),
        (
            "GET",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n\0\x01",
            None,
        ),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", None),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            None,
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
            None,
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=\"b\"\r\nok\r\n0\r\nA: b\r\n\r\n",
            None,
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            Some(Fault::ManyLengths),
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            Some(Fault::LengthAndCoding),
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            Some(Fault::Coding),
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok",
            Some(Fault::BareLineFeed),
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            Some(Fault::Folded),
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
            Some(Fault::ControlByte),
        ),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n",
            Some(Fault::BodyForbidden),
        ),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n",
            Some(Fault::BodyForbidden),
        ),
        ("GET", "HTTP/2.0 200 OK\r\n\r\n", Some(Fault::StatusLine)),
        ("GET", "HTTP/1.1 20 OK\r\n\r\n", Some(Fault::StatusLine)),
        (
            "GET",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            Some(Fault::StatusLine),
        ),
        ("GET", "ok", None),
        ("GET", "<html>\r\n", Some(Fault::StatusLine)),
    ] {
        let seen = answers(method, text);
        assert_eq!(seen.fault, fault, "{text:?}");
        if fault.is_none() && text != "ok" {
            assert_eq!(seen.sound, text.as_bytes(), "{text:?}");
        }
    }
}

#[test]
fn nothing_follows_an_answer() {
    for (method, answer) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
        ),
    ] {
        let seen = answers(method, &format!("{answer}ok"));
        assert_eq!(seen.fault, Some(Fault::Unasked));
        assert_eq!(seen.sound, answer.as_bytes());
    }
    assert!(Scanner::responses().advance(b"H").is_err());
}

#[test]
fn a_sound_request_line_of_a_refused_message_can_be_shown() {
    let line = |text: &'static str| {
        origin_form(text.as_bytes()).map(|line| String::from_utf8_lossy(line).into_owned())
    };
    assert_eq!(
        line("\r\nGET /a?b HTTP/1.0\r\nx : y\r\n").as_deref(),
        Some("GET /a?b")
    );
    for text in [
        "GET /a HTTP/1.1\n",
        "GET  /a HTTP/1.1\r\n",
        "GET http://a b HTTP/1.1\r\n",
        "GET * HTTP/1.1\r\n",
        "GET /a",
        "",
        "\r\n",
    ] {
        assert_eq!(line(text), None, "{text:?}");
    }
}

#[test]
fn a_connections_state_is_small() {
    let bytes = size_of::<Reader>();
    assert!(bytes <= 80, "{bytes}");
}

/// Pieces of requests, good and bad, that say most when they are mixed.
fn piece() -> impl Strategy<Value = String> {
    let fixed = proptest::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /a?b HTTP/1.1\r\n",
        "GET http://a/ HTTP/1.1\r\n",
        "Host: a\r\n",
        "Host: b\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 03\r\n",
        "Transfer-Encoding: chunked\r\n",
        "\r\n",
        "\n",
        "\r",
        " ",
        "abc",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0\r\nA: b\r\n\r\n",
        "X: y\r\n",
        "X: y\n",
        "X : y\r\n",
        ": ",
        "\0",
        "\t",
        "Upgrade: h2c\r\n",
        "PRI * HTTP/2.0\r\n\r\n",
        "3;x\r\n",
        "HTTP/1.0\r\n",
        "\u{e9}",
    ]);
    prop_oneof![8 => fixed.prop_map(str::to_owned), 1 => "[ -~\r\n]{0,6}"]
}

/// Mostly whole requests, sometimes rubble.
fn stream() -> impl Strategy<Value = String> {
    let sound = proptest::sample::select(vec![
        get(""),
        get("X: y\r\n"),
        chunks("3\r\nabc\r\n0\r\n\r\n"),
        chunks("0\r\nA: b\r\n\r\n"),
        get("Content-Length: 3\r\n") + "abc",
        "POST / HTTP/1.1\r\nHost: a\r\n".to_owned(),
    ]);
    let part = prop_oneof![2 => sound, 3 => piece()];
    proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

/// Where a plain reader, one that parses heads with httparse as hyper does, sees messages end.
fn read_by_httparse(mut bytes: &[u8]) -> Option<Vec<usize>> {
    let mut ends = Vec::new();
    let mut read = 0;
    while !bytes.is_empty() {
        let mut fields = [httparse::EMPTY_HEADER; 128];
        let mut request = httparse::Request::new(&mut fields);
        let httparse::Status::Complete(head) = request.parse(bytes).ok()? else {
            return Some(ends);
        };
        let value = |name: &str| {
            let mut found = request
                .headers
                .iter()
                .filter(|field| field.name.eq_ignore_ascii_case(name));
            found
                .next()
                .map(|field| std::str::from_utf8(field.value).unwrap_or("").to_owned())
        };
        let rest = &bytes[head..];
        let body = if value("transfer-encoding").is_some() {
            let mut at = 0;
            loop {
                let httparse::Status::Complete((used, size)) =
                    httparse::parse_chunk_size(&rest[at..]).ok()?
                else {
                    return Some(ends);
                };
                at += used;
                if size == 0 {
                    let end = rest[at..].windows(2).position(|two| two == b"\r\n")?;
                    at += if end == 0 {
                        2
                    } else {
                        rest[at..].windows(4).position(|four| four == b"\r\n\r\n")? + 4
                    };
                    break at;
                }
                at += size as usize + 2;
                if at > rest.len() {
                    return Some(ends);
                }
            }
        } else {
            value("content-length")
                .map_or(Ok(0), |length| length.trim().parse::<usize>())
                .ok()?
        };
        if body > rest.len() {
            return Some(ends);
        }
        read += head + body;
        ends.push(read);
        bytes = &bytes[head + body..];
    }
    Some(ends)
}

/// Where the scanner sees messages end: after each byte that leaves it between two.
fn read_by_scanner(bytes: &[u8]) -> (Vec<usize>, bool) {
    let mut scanner = Scanner::requests();
    let mut ends = Vec::new();
    let mut from = 0;
    for to in 1..=bytes.len() {
        match scanner.advance(&bytes[from..to]) {
            Ok(0) => {}
            Ok(understood) => {
                from += understood;
                if !scanner.reader.is_within() {
                    ends.push(from);
                }
            }
            Err(_) => return (ends, false),
        }
    }
    (ends, true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// How bytes are cut on their way changes nothing.
    #[test]
    fn cuts_change_nothing(text in stream(), cuts in proptest::collection::vec(0_usize..400, 0..6)) {
        let bytes = text.as_bytes();
        let whole = show(&mut Scanner::requests(), [bytes]);
        let mut at: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
        at.sort_unstable();
        let pieces = at.windows(2).map(|ends| &bytes[ends[0]..ends[1]]);
        let cut = show(&mut Scanner::requests(), pieces);
        prop_assert_eq!(cut.fault, whole.fault);
        // More of a message may have been passed on before its fault came; never less, and never another byte.
        prop_assert!(cut.sound.starts_with(&whole.sound));
        prop_assert!(bytes.starts_with(&cut.sound));
        let single = show(&mut Scanner::requests(), bytes.chunks(1));
        prop_assert_eq!(single.fault, whole.fault);
    }

    /// What is not refused ends where an ordinary reader sees it end.
    #[test]
    fn accepted_messages_end_where_others_see_them_end(text in stream()) {
        let (ends, sound) = read_by_scanner(text.as_bytes());
        if !ends.is_empty() {
            let others = read_by_httparse(text.as_bytes()[..ends[ends.len() - 1]].as_ref());
            prop_assert_eq!(others.as_ref(), Some(&ends), "{:?} {}", text, sound);
        }
    }

    /// The fast way to read a head finds what the long one finds.
    #[test]
    fn both_ways_agree(text in stream()) {
        let bytes = text.as_bytes();
        let (mut once, mut parts) = (Lines::default(), Lines::default());
        if let Some(whole) = Head::at_once(bytes, Side::Request, false, &mut once) {
            let mut head = Head::default();
            // A byte was looked at before: that is for the long way.
            let begun = head.advance(&bytes[..1], Side::Request, false, &mut parts);
            prop_assert_eq!(begun, Ok(None));
            let long = head.advance(bytes, Side::Request, false, &mut parts);
            prop_assert_eq!(long, Ok(Some(whole)));
            prop_assert_eq!(once, parts);
        }
    }

    /// Any bytes: an answer, never a panic, and never more bytes than were shown.
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200), response in any::<bool>()) {
        let mut scanner = if response { Scanner::responses() } else { Scanner::requests() };
        scanner.expect(false);
        match scanner.advance(&bytes) {
            Ok(understood) => prop_assert!(understood <= bytes.len()),
            Err(refused) => prop_assert!(refused.sound <= bytes.len()),
        }
    }
}
