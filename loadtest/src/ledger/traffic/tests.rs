use super::*;

#[test]
fn a_body_has_its_wish_and_an_estimate_that_is_not_far_off() {
    let mut random = Random::new(1);
    for number in 0..300 {
        let wish = wish(number, number % 2 == 0, &mut random);
        let (body, asks) = body(wish);
        assert_eq!(Wish::find(body.as_bytes()), Some(wish));
        assert!(body.is_ascii() && body.len() < 2048, "{}", body.len());
        assert_eq!(body.contains("include_usage"), asks);
        let estimate = body.len().div_ceil(4) as u64;
        assert!(wish.tokens().input <= 2 * estimate, "{estimate}");
    }
}

#[test]
fn some_leave_at_every_part_of_a_stream() {
    let mut random = Random::new(1);
    let wishes = (0..320).map(|number| wish(number, number % 2 == 0, &mut random));
    let leaves: Vec<Leave> = wishes.map(leave).collect();
    let stay = leaves.iter().filter(|leave| **leave == Leave::Never);
    assert_eq!(stay.count(), 280);
    let least = |leave: &&Leave| matches!(leave, Leave::Events(0));
    assert_eq!(leaves.iter().filter(least).count(), 5);
    let late = |leave: &&Leave| matches!(leave, Leave::Events(19..));
    assert!(leaves.iter().filter(late).count() >= 5);
    assert!(leaves.iter().any(|leave| matches!(leave, Leave::Time(_))));
}

#[test]
fn a_stream_is_whole_with_its_end_and_no_sooner() {
    let wish = Wish {
        number: 2,
        kind: Kind::Stream(1),
        wait_ms: 1,
    };
    let event = "data: {\"choices\":[{\"delta\":{\"content\":\"word \"}}]}\n\n";
    let done = "data: [DONE]\n\n";
    assert_eq!(whole(&format!("{event}{done}"), wish, false), Ok(()));
    for wrong in [
        event.to_owned(),
        done.to_owned(),
        format!("{event}{event}{done}"),
        format!("{event}{done}{done}"),
        format!("{event}data: {{\"usage\":{{}}}}\n\n{done}"),
    ] {
        assert!(whole(&wrong, wish, false).is_err(), "{wrong}");
    }
    assert_eq!(events(&event[..event.len() - 1]), 0);
    assert_eq!(
        refusal(402, r#"{"error":{"code":"insufficient_balance"}}"#),
        End::Refused(402, "insufficient_balance".to_owned())
    );
    assert!(matches!(refusal(502, "<html>"), End::Wrong(_)));
}
