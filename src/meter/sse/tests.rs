use super::*;
use proptest::prelude::*;

fn frames(stream: &[u8], cuts: &[usize]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut split = SseSplit::new(DEFAULT_LIMIT);
    let mut out = Vec::new();
    let mut rest = stream;
    for cut in cuts.iter().copied().chain([stream.len()]) {
        let (chunk, after) = rest.split_at(cut.min(rest.len()));
        split
            .split(chunk, &mut |piece| {
                out.push(match piece {
                    Piece::Inside(range) => chunk[range].to_vec(),
                    Piece::Joined(bytes) => bytes,
                });
            })
            .unwrap();
        rest = after;
    }
    (out, split.take_tail())
}

/// The event in strict form; `None` if nothing is left of it.
fn normalized(raw: &[u8], keep_event_lines: bool) -> Option<Vec<u8>> {
    let layout = Layout::read(raw);
    if layout.is_strict(keep_event_lines) {
        return Some(raw.to_vec());
    }
    layout.normalized(raw, keep_event_lines)
}

fn normal(stream: &str, keep_event_lines: bool) -> String {
    let (frames, tail) = frames(stream.as_bytes(), &[]);
    assert_eq!(tail, b"");
    let out: Vec<_> = frames
        .iter()
        .filter_map(|raw| normalized(raw, keep_event_lines))
        .collect();
    String::from_utf8(out.concat()).unwrap()
}

#[test]
fn all_line_ends_end_events() {
    for (stream, want) in [
        ("data: a\n\ndata: b\n\n", vec!["data: a\n\n", "data: b\n\n"]),
        (
            "data: a\r\n\r\ndata: b\r\n\r\n",
            vec!["data: a\r\n\r\n", "data: b\r\n\r\n"],
        ),
        ("data: a\r\rdata: b\r\r", vec!["data: a\r\r", "data: b\r\r"]),
        (
            "data: a\n\r\ndata: b\r\n\n",
            vec!["data: a\n\r\n", "data: b\r\n\n"],
        ),
        ("data: a\r\ndata: b\n\n", vec!["data: a\r\ndata: b\n\n"]),
        ("\n\ndata: a\n\n", vec!["\n", "\n", "data: a\n\n"]),
    ] {
        let (got, tail) = frames(stream.as_bytes(), &[]);
        let got: Vec<_> = got
            .iter()
            .map(|raw| std::str::from_utf8(raw).unwrap())
            .collect();
        assert_eq!((got, tail.len()), (want, 0));
    }
    assert_eq!(frames(b"data: a\n\ndata: b\n", &[]).1, b"data: b\n");
}

#[test]
fn events_within_a_chunk_are_not_copied() {
    let mut split = SseSplit::new(DEFAULT_LIMIT);
    let mut places = Vec::new();
    split
        .split(b"data: a\n\ndata: b\n\ndata: c", &mut |piece| match piece {
            Piece::Inside(range) => places.push(range),
            Piece::Joined(bytes) => panic!("copied: {bytes:?}"),
        })
        .unwrap();
    assert_eq!(places, [0..9, 9..18]);
    assert_eq!(split.take_tail(), b"data: c");
}

#[test]
fn payload_and_name() {
    let raw = b"event: x\ndata: {\"a\":1}\n\n";
    let one = Layout::read(raw);
    assert!(matches!(one.data(raw), Some(Cow::Borrowed(b"{\"a\":1}"))));
    assert_eq!(one.event(raw), Some(&b"x"[..]));
    assert!(one.is_strict(true) && !one.is_strict(false));
    let raw = b"data:{\ndata:  \"a\":1\n: note\r\ndata\ndata:}\n\n";
    let many = Layout::read(raw);
    assert_eq!(many.data(raw).unwrap(), &b"{\n \"a\":1\n\n}"[..]);
    assert_eq!(many.locate(raw, 3..8), Some(14..19));
    assert_eq!(&raw[14..19], b"\"a\":1");
}

#[test]
fn normal_form() {
    for strict in [
        "data: {}\n\n",
        ": keepalive\n\n",
        ": a\ndata: 1\ndata: 2\n\n",
    ] {
        assert!(
            Layout::read(strict.as_bytes()).is_strict(false),
            "{strict:?}"
        );
    }
    assert_eq!(normal("data:{}\r\n\r\n", false), "data: {}\n\n");
    assert_eq!(
        normal("id: 1\nretry: 5\nevent: message\ndata: {}\n\n", false),
        "data: {}\n\n"
    );
    assert_eq!(
        normal("id: 1\nevent:x\ndata: {}\n\n", true),
        "event: x\ndata: {}\n\n"
    );
    assert_eq!(
        normal(
            "retry: 5\n\nid: 7\n\nevent: x\n\n\ndata:\n\ndata\n\ndata: \n\n",
            true
        ),
        ""
    );
    assert_eq!(normal(": note\nid: 7\n\n", false), ": note\n\n");
    assert_eq!(normal(": note\nevent: x\n\n", true), ": note\n\n");
    assert_eq!(
        normal(": ping\n\n:ping - 2026\n\n", false),
        ": keepalive\n\n: keepalive\n\n"
    );
    assert_eq!(normal("{\"error\":1}\n\n", false), "");
    assert_eq!(normal("data: x\n\r\n", false), "data: x\n\n");
}

#[test]
fn a_byte_order_mark_is_dropped() {
    for cuts in [&[][..], &[1, 1], &[2], &[1, 1, 1]] {
        let (got, _) = frames(b"\xef\xbb\xbfdata: a\n\n", cuts);
        assert_eq!(got[0], &b"data: a\n\n"[..]);
        let (got, _) = frames(b"\xef\xbbdata: a\n\n", cuts);
        assert_eq!(got[0], &b"\xef\xbbdata: a\n\n"[..]);
    }
}

#[test]
fn the_tail_is_bounded() {
    let mut split = SseSplit::new(10);
    let mut none = |_: Piece| panic!("no event ends here");
    assert_eq!(split.split(b"data: 12", &mut none), Ok(()));
    assert_eq!(split.split(b"345", &mut none), Err(TooLong { limit: 10 }));
    assert_eq!(split.take_tail(), b"");
}

proptest! {
    #[test]
    fn cuts_do_not_matter(
        parts in proptest::collection::vec(proptest::sample::select(vec![
            "data", ":", " ", "{}", "\n", "\r", "\r\n", "\n\n", "event: x", "id: 1", "data: y", "\u{feff}", ": c"]), 0..40),
        cuts in proptest::collection::vec(0usize..8, 0..40)) {
        let stream = parts.concat();
        for keep in [true, false] {
            let run = |cuts: &[usize]| {
                let (frames, tail) = frames(stream.as_bytes(), cuts);
                let out: Vec<_> = frames.iter().filter_map(|raw| normalized(raw, keep)).collect();
                (out.concat(), tail)
            };
            let whole = run(&[]);
            prop_assert_eq!(run(&cuts), whole.clone());
            // What comes out is strict, every event of it.
            let (again, _) = frames(&whole.0, &[]);
            prop_assert!(again.iter().all(|raw| Layout::read(raw).is_strict(keep)));
        }
    }
}
