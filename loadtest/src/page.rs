//! Pages of `docs/` with parts that are measured: what stands between two marks is written by the command that measured it.

use crate::Result;

/// The page with another text between `<!-- MARKER: begin -->` and `<!-- MARKER: end -->`, each on a line of its own and there
/// once. What is around them stays as it is, byte for byte.
pub fn replace(page: &str, marker: &str, text: &str) -> Result<String> {
    let begin = format!("<!-- {marker}: begin -->\n");
    let end = format!("<!-- {marker}: end -->\n");
    let start = only(page, &begin)? + begin.len();
    let stop = only(page, &end)?;
    if stop < start {
        return Err(format!("{} comes before {}", end.trim_end(), begin.trim_end()).into());
    }
    if text.contains(&begin) || text.contains(&end) {
        return Err(format!("the text has the mark {marker} itself").into());
    }
    let text = text.trim_matches('\n');
    Ok(format!(
        "{}\n{text}\n\n{}",
        page.get(..start).unwrap_or_default(),
        page.get(stop..).unwrap_or_default()
    ))
}

/// Where a line is that must be there once.
fn only(page: &str, line: &str) -> Result<usize> {
    let mut at = page
        .match_indices(line)
        .map(|(at, _)| at)
        .filter(|at| *at == 0 || page.as_bytes().get(at - 1) == Some(&b'\n'));
    match (at.next(), at.next()) {
        (Some(at), None) => Ok(at),
        (None, _) => Err(format!("the page has no line {}", line.trim_end()).into()),
        (Some(_), Some(_)) => {
            Err(format!("the page has {} more than once", line.trim_end()).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Page\n\n<!-- one: begin -->\nold\n<!-- one: end -->\n\nmiddle\n<!-- two: begin -->\n<!-- two: end -->\n";

    #[test]
    fn only_what_is_between_the_marks_changes() -> Result<()> {
        let page = replace(PAGE, "one", "| new |\n")?;
        assert_eq!(
            page,
            "# Page\n\n<!-- one: begin -->\n\n| new |\n\n<!-- one: end -->\n\nmiddle\n<!-- two: begin -->\n<!-- two: end -->\n"
        );
        // Written again, it is the same page.
        assert_eq!(replace(&page, "one", "| new |")?, page);
        assert!(
            replace(&page, "two", "more")?
                .ends_with("<!-- two: begin -->\n\nmore\n\n<!-- two: end -->\n")
        );
        Ok(())
    }

    #[test]
    fn a_page_without_its_marks_is_left_alone() {
        let words = |page: &str, text: &str| match replace(page, "one", text) {
            Ok(page) => page,
            Err(error) => error.to_string(),
        };
        assert!(words("# Page\n", "new").contains("no line <!-- one: begin -->"));
        assert!(words("<!-- one: begin -->\n", "new").contains("no line <!-- one: end -->"));
        assert!(words("<!-- one: end -->\n<!-- one: begin -->\n", "new").contains("comes before"));
        assert!(words(&PAGE.repeat(2), "new").contains("more than once"));
        assert!(words(PAGE, "<!-- one: end -->\n").contains("itself"));
        // One that is quoted in a line is no mark.
        assert!(words("see `<!-- one: begin -->\n<!-- one: end -->\n", "new").contains("no line"));
    }
}
