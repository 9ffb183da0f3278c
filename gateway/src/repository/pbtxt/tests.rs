use proptest::prelude::*;

use super::*;

fn error(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

/// A tree as text without positions: `a=1 b={c='x'}`.
fn show(fields: &[Field]) -> String {
    let texts: Vec<String> = fields
        .iter()
        .map(|field| {
            let value = match &field.value {
                Value::Integer(value) => value.to_string(),
                Value::Float(value) => format!("{value:?}"),
                Value::Text(text) => format!("{text:?}"),
                Value::Word(word) => word.clone(),
                Value::Message(fields) => format!("{{{}}}", show(fields)),
            };
            format!("{}={value}", field.name)
        })
        .collect();
    texts.join(" ")
}

fn shown(text: &str) -> String {
    show(&parse(text).expect(text))
}

#[test]
fn all_spellings_of_a_field_are_read() {
    assert_eq!(shown(""), "");
    assert_eq!(shown(" # only a comment"), "");
    assert_eq!(shown("a: 1 b: 2,c: 3;\nd: 4"), "a=1 b=2 c=3 d=4");
    assert_eq!(shown("a { b: 1 } a: { b: 2 } a < b: 3 >"), "a={b=1} a={b=2} a={b=3}");
    assert_eq!(shown("a: [1, 2 , 3] b: []"), "a=1 a=2 a=3");
    assert_eq!(shown("a [ { b: 1 }, { b: 2 } ]"), "a={b=1} a={b=2}");
    assert_eq!(shown("a: TYPE_FP32 # why\nb: true"), "a=TYPE_FP32 b=true");
}

#[test]
fn numbers_are_read_in_every_base() {
    assert_eq!(shown("a: -1 b: - 2 c: 0x1F d: 017 e: 0"), "a=-1 b=-2 c=31 d=15 e=0");
    assert_eq!(
        shown("a: 1.5 b: -.5 c: 1e-3 d: 2.f e: -inf f: 1E+2F"),
        "a=1.5 b=-0.5 c=0.001 d=2.0 e=-inf f=100.0"
    );
    assert_eq!(
        shown("a: 18446744073709551615 b: -9223372036854775808"),
        "a=18446744073709551615 b=-9223372036854775808"
    );
    for bad in [
        "a: 1x",
        "a: 0x",
        "a: 08",
        "a: 1.2.3",
        "a: -",
        "a: --1",
        "a: 18446744073709551616",
        "a: -9223372036854775809",
        "a: -word",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn strings_are_unescaped_and_adjacent_ones_joined() {
    assert_eq!(shown(r#"a: "x" 'y'  "z""#), r#"a="xyz""#);
    assert_eq!(
        parse(r#"a: "\n\t\\\"\'\101\x41\u00e9\U0001F600é""#).expect("valid")[0].value,
        Value::Text("\n\t\\\"'AAé😀é".into())
    );
    assert_eq!(parse(r#"a: "\303\251""#).expect("valid")[0].value, Value::Text("é".into()));
    for bad in [
        r#"a: "x"#,
        "a: \"x\ny\"",
        r#"a: "\q""#,
        r#"a: "\x""#,
        r#"a: "\400""#,
        r#"a: "\ud800""#,
        r#"a: "\xff""#,
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn errors_name_line_column_and_what_was_expected() {
    assert_eq!(error("a: 1\n  b 2"), "line 2, column 5: expected ':' or '{' after 'b', found '2'");
    assert_eq!(
        error("a {\n b: 1"),
        "line 2, column 6: expected a field name or '}', found the end of the file"
    );
    assert_eq!(error("a: [1 2]"), "line 1, column 7: expected ',' or ']', found '2'");
    assert_eq!(error("a: [1,]"), "line 1, column 7: expected a value, found ']'");
    assert_eq!(error("a:"), "line 1, column 3: expected a value, found the end of the file");
    assert_eq!(error("}"), "line 1, column 1: expected a field name, found '}'");
    assert_eq!(error("a: 12monkeys"), "line 1, column 4: \"12monkeys\" is not a number");
    assert_eq!(error("[a.b]: 1"), "line 1, column 1: expected a field name, found '['");
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!("{}{}", "a {".repeat(depth), "}".repeat(depth));
    assert!(parse(&nested(MAX_DEPTH)).is_ok());
    assert!(error(&nested(MAX_DEPTH + 1)).ends_with("messages nest deeper than 32"));
    assert!(parse(&"a {".repeat(1 << 18)).is_err());
    assert!(parse(&"a: [{".repeat(1 << 18)).is_err());
}

fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        any::<i64>().prop_map(|value| Value::Integer(value.into())),
        any::<u64>().prop_map(|value| Value::Integer(value.into())),
        any::<String>().prop_map(Value::Text),
        "[A-Z_][A-Z0-9_]{0,8}".prop_map(Value::Word),
    ];
    scalar.prop_recursive(4, 32, 4, |inner| {
        prop::collection::vec(("[a-z_]{1,6}", inner), 0..4).prop_map(|fields| {
            let position = Position { line: 0, column: 0 };
            Value::Message(fields.into_iter().map(|(name, value)| Field { name, value, position }).collect())
        })
    })
}

fn write(value: &Value) -> String {
    match value {
        Value::Integer(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(text) => {
            text.bytes().fold(String::from("\""), |text, byte| text + &format!("\\{byte:03o}")) + "\""
        }
        Value::Word(word) => word.clone(),
        Value::Message(fields) => {
            let texts: Vec<String> =
                fields.iter().map(|field| format!("{}: {}", field.name, write(&field.value))).collect();
            format!("{{ {} }}", texts.join(" "))
        }
    }
}

proptest! {
    #[test]
    fn random_text_never_panics(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn random_tokens_never_panic(tokens in prop::collection::vec(
        prop::sample::select(vec!["a", ":", "{", "}", "[", "]", "<", ">", ",", ";", "\"x\"", "\"", "'", "\\", "-", "1", "0x", ".5", "e", "#", "\n", " ", "é"]),
        0..64,
    )) {
        let _ = parse(&tokens.concat());
    }

    #[test]
    fn what_is_written_is_read_back(value in value()) {
        let text = format!("field: {}", write(&value));
        let fields = parse(&text).expect("written by the test");
        let expected = Field { name: "field".into(), value, position: Position { line: 1, column: 1 } };
        prop_assert_eq!(show(&fields), show(&[expected]));
    }
}
