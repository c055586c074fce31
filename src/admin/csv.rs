//! Tables as CSV (RFC 4180).

/// One line. What a spreadsheet would take for a formula gets an apostrophe in front: names of models and
/// keys come from people.
pub fn line<'a>(fields: impl IntoIterator<Item = &'a str>) -> String {
    let mut line = String::new();
    for (at, field) in fields.into_iter().enumerate() {
        if at > 0 {
            line.push(',');
        }
        let formula = field.starts_with(['=', '+', '-', '@', '\t', '\r', '\n'])
            && field.parse::<f64>().is_err();
        let apostrophe = if formula { "'" } else { "" };
        if field.contains([',', '"', '\r', '\n']) || field.trim() != field {
            line.push('"');
            line.push_str(apostrophe);
            line.push_str(&field.replace('"', "\"\""));
            line.push('"');
        } else {
            line.push_str(apostrophe);
            line.push_str(field);
        }
    }
    line.push_str("\r\n");
    line
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn fields_are_quoted_and_no_formula() {
        assert_eq!(line(["a", "1.5", "-2.000000", ""]), "a,1.5,-2.000000,\r\n");
        assert_eq!(line(["a,b", "say \"x\""]), "\"a,b\",\"say \"\"x\"\"\"\r\n");
        assert_eq!(
            line(["=1+1", "+a", "-b", "@c", "\tx"]),
            "'=1+1,'+a,'-b,'@c,\"'\tx\"\r\n"
        );
        assert_eq!(line(["=A1,B1"]), "\"'=A1,B1\"\r\n");
    }
}
