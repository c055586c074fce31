use super::*;

const TYPE: &str = "multipart/form-data; boundary=XX";

fn part(name: &str, value: &str) -> String {
    format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

fn file(value: &str) -> String {
    format!(
        "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"model\"\r\nContent-Type: audio/mpeg\r\n\r\n{value}\r\n"
    )
}

fn scan(body: &str, step: usize) -> Result<MultipartScan, Fault> {
    let mut scan = MultipartScan::new(TYPE).unwrap();
    for piece in body.as_bytes().chunks(step) {
        scan.push(piece)?;
    }
    Ok(scan)
}

#[test]
fn the_field_is_found_wherever_it_stands_and_however_the_body_is_cut() {
    let data = "x\r\n--X".repeat(50);
    for body in [
        format!("{}{}--XX--\r\n", part("model", "whisper-1"), file(&data)),
        format!("{}{}--XX--\r\n", file(&data), part("model", "whisper-1")),
        format!(
            "{}{}{}--XX--",
            part("prompt", ""),
            part("model", "whisper-1"),
            file("")
        ),
    ] {
        for step in [1, 2, 3, 7, 64, 10_000] {
            let scan = scan(&body, step).unwrap();
            let model = scan.model().unwrap();
            assert_eq!(model.value, "whisper-1");
            let span = model.span.start as usize..model.span.end as usize;
            assert_eq!(&body[span], "whisper-1", "step {step}");
            assert!(scan.ended());
        }
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let model = part("model", "a");
    for (body, fault) in [
        (
            format!("{model}{model}--XX--"),
            Fault::Repeated(Field::Model),
        ),
        (part("Model", "a"), Fault::Variant(Field::Model)),
        (
            "--XX\r\nContent-Disposition: form-data; name*=utf-8''model\r\n\r\na\r\n".into(),
            Fault::Variant(Field::Model),
        ),
        (
            "--XX\r\nContent-Disposition: form-data; name=\"a\"; name=\"model\"\r\n\r\na\r\n"
                .into(),
            Fault::Repeated(Field::Model),
        ),
        (
            part("model", "a\0b") + "--XX--",
            Fault::BadValue(Field::Model),
        ),
        (part("model", &"a".repeat(2000)) + "--XX--", Fault::TooLong),
        (format!("--XX\r\n{}", "a".repeat(9000)), Fault::TooLong),
        ("--XXX\r\n".into(), Fault::Malformed),
        // Each of these shows a second model to some parser or other.
        (format!("preamble\r\n{model}--XX--"), Fault::Malformed),
        (format!("{model}--XX--\r\n--YY\r\n"), Fault::Malformed),
        (
            "--XX\r\nContent-Disposition: form-data;\r\n name=\"model\"\r\n\r\na\r\n".into(),
            Fault::Malformed,
        ),
        (
            "--XX\r\nX-A: b\nContent-Disposition: form-data; name=\"model\"\r\n\r\na\r\n".into(),
            Fault::Malformed,
        ),
        (
            "--XX\r\nContent-Transfer-Encoding: base64\r\n\r\na\r\n".into(),
            Fault::Malformed,
        ),
        (
            "--XX\r\nContent-Disposition: a; name=x\r\nContent-Disposition: a; name=model\r\n\r\n"
                .into(),
            Fault::Repeated(Field::Model),
        ),
    ] {
        assert_eq!(scan(&body, 5).err(), Some(fault), "{body:.60}");
    }
}

#[test]
fn what_images_are_billed_by_is_read_wherever_it_stands() {
    let (model, image) = (part("model", "a"), file("\r\n--X"));
    let (n, size) = (part("n", "4"), part("size", "1024x1536"));
    for body in [
        format!("{model}{n}{size}{image}--XX--"),
        format!("{size}{image}{model}{n}--XX--"),
        format!("{image}{n}{size}{model}--XX--"),
    ] {
        for step in [1, 3, 10_000] {
            let scan = scan(&body, step).unwrap();
            assert_eq!((scan.answers(), scan.size()), (4, Some("1024x1536")));
        }
    }
    let of = |fields: &str| {
        let scan = scan(&format!("{model}{fields}--XX--"), 7)?;
        Ok((scan.answers(), scan.size().map(str::to_owned)))
    };
    let auto = Some("auto".to_owned());
    assert_eq!(of(""), Ok((1, None)));
    assert_eq!(of(&part("n", "0")), Ok((1, None)));
    assert_eq!(of(&(part("n", "") + &part("size", ""))), Ok((1, None)));
    assert_eq!(of(&part("size", "auto")), Ok((1, auto)));
    assert_eq!(of(&part("size", &"9".repeat(33))), Ok((1, None)));
    for bad in ["-1", "1.5", " 2", "two", "18446744073709551616"] {
        assert_eq!(of(&part("n", bad)), Err(Fault::BadValue(Field::N)), "{bad}");
    }
    let twice = part("size", "1x1") + &part("size", "2x2");
    assert_eq!(of(&twice), Err(Fault::Repeated(Field::Size)));
    assert_eq!(of(&part("N", "2")), Err(Fault::Variant(Field::N)));
    let empty_twice = part("n", "") + &part("n", "9");
    assert_eq!(of(&empty_twice), Err(Fault::Repeated(Field::N)));
}

#[test]
fn a_form_without_the_field_ends_without_it() {
    let scan = scan(&format!("{}--XX--\r\n", file("data")), 3).unwrap();
    assert!(scan.model().is_none() && scan.ended());
}

#[test]
fn content_types() {
    assert_eq!(boundary(TYPE).as_deref(), Some("XX"));
    assert_eq!(
        boundary("Multipart/Form-Data; charset=utf-8; Boundary=\"a-b\"").as_deref(),
        Some("a-b")
    );
    for wrong in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=a",
        "application/json; boundary=a",
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary=a; boundary*=b",
        "multipart/form-data; boundary=\"a;b\"",
        "multipart/form-data; boundary=\"a",
    ] {
        assert_eq!(boundary(wrong), None, "{wrong}");
    }
}

#[test]
fn file_names_may_look_like_parameters() {
    let body = "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a; name=model \\\"b\\\".mp3\"\r\n\r\nx\r\n--XX--";
    assert!(scan(body, 4).unwrap().model().is_none());
}

#[test]
fn little_is_held_of_a_large_file() {
    let mut scan = MultipartScan::new(TYPE).unwrap();
    scan.push(file("").strip_suffix("\r\n").unwrap().as_bytes())
        .unwrap();
    for _ in 0..100 {
        scan.push(&[b'\r'; 10_000]).unwrap();
    }
    assert!(scan.pending.len() < 10);
}
