use super::*;
use proptest::prelude::*;

fn frames(stream: &[u8], cuts: &[usize]) -> (Vec<Frame>, Vec<u8>) {
    let mut split = SseSplit::default();
    let mut rest = Bytes::copy_from_slice(stream);
    let mut out = Vec::new();
    for &cut in cuts {
        let piece = rest.split_to(cut.min(rest.len()));
        split.push(piece, &mut out).unwrap();
    }
    split.push(rest, &mut out).unwrap();
    (out, split.tail().to_vec())
}

fn normal(stream: &str, keep_event_lines: bool) -> String {
    let (frames, tail) = frames(stream.as_bytes(), &[]);
    assert_eq!(tail, b"");
    let out: Vec<_> = frames
        .iter()
        .filter_map(|f| normalized(f, keep_event_lines))
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
            .map(|f| std::str::from_utf8(f.raw()).unwrap())
            .collect();
        assert_eq!((got, tail.len()), (want, 0));
    }
    assert_eq!(frames(b"data: a\n\ndata: b\n", &[]).1, b"data: b\n");
}

#[test]
fn events_within_a_chunk_are_not_copied() {
    let chunk = Bytes::from_static(b"data: a\n\ndata: b\n\ndata: c");
    let mut out = Vec::new();
    let mut split = SseSplit::default();
    split.push(chunk.clone(), &mut out).unwrap();
    assert_eq!(out[1].raw().as_ptr(), chunk[9..].as_ptr());
    assert_eq!(split.tail(), b"data: c");
}

#[test]
fn payload_and_name() {
    let one = Frame::new(Bytes::from_static(b"event: x\ndata: {\"a\":1}\n\n"));
    assert!(matches!(one.data(), Some(Cow::Borrowed(b"{\"a\":1}"))));
    assert_eq!(one.event(), Some(&b"x"[..]));
    assert!(one.is_strict(true) && !one.is_strict(false));
    let many = Frame::new(Bytes::from_static(
        b"data:{\ndata:  \"a\":1\n: note\r\ndata\ndata:}\n\n",
    ));
    assert_eq!(many.data().unwrap(), &b"{\n \"a\":1\n\n}"[..]);
    assert_eq!(many.layout.locate(many.raw(), 3..8), Some(14..19));
    assert_eq!(&many.raw()[14..19], b"\"a\":1");
}

#[test]
fn normal_form() {
    for strict in [
        "data: {}\n\n",
        ": keepalive\n\n",
        ": a\ndata: 1\ndata: 2\n\n",
    ] {
        let frame = Frame::new(Bytes::copy_from_slice(strict.as_bytes()));
        let same = normalized(&frame, false).unwrap();
        assert_eq!(same.as_ptr(), frame.raw().as_ptr());
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
        assert_eq!(got[0].raw(), &b"data: a\n\n"[..]);
        let (got, _) = frames(b"\xef\xbbdata: a\n\n", cuts);
        assert_eq!(got[0].raw(), &b"\xef\xbbdata: a\n\n"[..]);
    }
}

#[test]
fn the_tail_is_bounded() {
    let mut split = SseSplit::new(10);
    let mut out = Vec::new();
    assert_eq!(
        split.push(Bytes::from_static(b"data: 12"), &mut out),
        Ok(())
    );
    assert_eq!(
        split.push(Bytes::from_static(b"345"), &mut out),
        Err(TooLong { limit: 10 })
    );
    assert_eq!(split.tail(), b"");
}

#[test]
fn whole_events_is_about_the_end() {
    assert!(whole_events(b"data: a\n\n") && whole_events(b"a\r\n\r\n") && whole_events(b"a\r\r"));
    assert!(!whole_events(b"data: a\n") && !whole_events(b"data: a\r\n") && !whole_events(b""));
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
                let out: Vec<Bytes> = frames.iter().filter_map(|f| normalized(f, keep)).collect();
                (out.concat(), tail)
            };
            let whole = run(&[]);
            prop_assert_eq!(run(&cuts), whole.clone());
            // What comes out is strict, every event of it.
            let (again, _) = frames(&whole.0, &[]);
            prop_assert!(again.iter().all(|f| f.is_strict(keep)));
        }
    }
}
