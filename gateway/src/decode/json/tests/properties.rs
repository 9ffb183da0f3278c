//! What holds for any text.

use proptest::prelude::*;

use super::*;

/// Pieces that often make JSON, and sometimes a request.
fn json_like() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\"b\"", "1", "-1.5e3", "0", "true", "null", " ",
        "\\u0041", "é",
    ]);
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Pieces that often make a string.
fn string_like() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "a",
        "é",
        "☃",
        "\"",
        "\\",
        "\\\"",
        "\\\\",
        "\\/",
        "\\n",
        "\\x",
        "\\u00e9",
        "\\u000",
        "\\ud83d",
        "\\ude00",
        "\\ud83d\\ude00",
        "\u{1}",
        "\u{7f}",
        "sixteen letters.",
    ]);
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn request_like() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "{\"inputs\":[",
        "{\"name\":\"X\"",
        ",\"shape\":[",
        ",\"datatype\":\"FP32\"",
        ",\"datatype\":\"BYTES\"",
        ",\"data\":[",
        "\"parameters\":{",
        "\"binary_data_size\":",
        "1",
        "2",
        ",",
        "]",
        "}",
        "]}",
        "]}]}",
        "[",
        "{",
        "NaN",
        "-Infinity",
        "\"\\ud83d\\ude00\"",
        "\"\\",
        "1e400",
        "-",
        "0.",
        ":",
        "null",
        "\"outputs\":[",
    ]);
    proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

/// Mostly numbers as programs write them.
fn number_like() -> impl Strategy<Value = String> {
    prop_oneof![
        200 => (-4.0..4.0_f32).prop_map(|value| value.to_string()),
        50 => (0..100_u8).prop_map(|value| value.to_string()),
        20 => any::<f64>().prop_filter("JSON has no others", |value| value.is_finite()).prop_map(|value| format!("{value:e}")),
        1 => (0..5_usize).prop_map(|index| ["01", "1.", "-", "1 2", ""][index].to_owned()),
    ]
}

/// Mostly commas, and sometimes what cannot stand between two numbers.
fn separator_like() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        1000 => Just(","),
        200 => Just(", "),
        20 => Just(" ,"),
        20 => Just(",\n  "),
        1 => Just(",,"),
        1 => Just("]"),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn exactly_valid_json_is_stepped_over(value in json_like()) {
        let accepted = parse(&format!("{{\"inputs\":[],\"x\":{value}}}"));
        let valid = serde_json::from_str::<serde::de::IgnoredAny>(&value).is_ok();
        // What closes the frame itself may make one text out of two wrong parts.
        let frame = serde_json::from_str::<serde::de::IgnoredAny>(&format!("{{\"x\":{value}}}")).is_ok();
        match accepted {
            Ok(_) => prop_assert!(valid || frame, "{}", value),
            Err(error) => prop_assert!(!valid, "{}: {}", value, error),
        }
    }

    #[test]
    fn strings_are_what_another_reader_takes_them_for(string in string_like()) {
        let expected = serde_json::from_str::<String>(&string).ok();
        let id = parse(&format!("{{\"inputs\":[],\"id\":{string}}}")).ok().map(|header| header.reply.id);
        prop_assert_eq!(id, expected.clone().map(Some));
        let bytes = bytes_of("BYTES", "[1]", &format!("[{string}]")).ok();
        prop_assert_eq!(bytes.map(|bytes| bytes[4..].to_vec()), expected.clone().map(String::into_bytes));
        let stepped_over = parse(&format!("{{\"inputs\":[],\"x\":[{string}]}}"));
        prop_assert_eq!(stepped_over.is_ok(), expected.is_some());
    }

    #[test]
    fn lists_are_what_another_reader_takes_them_for(
        items in proptest::collection::vec((number_like(), separator_like()), 1..150),
    ) {
        let text: String = items.iter().map(|(number, separator)| format!("{number}{separator}")).collect();
        let list = format!("[{text}7]");
        let valid = serde_json::from_str::<serde::de::IgnoredAny>(&list).is_ok();
        let values = items.iter().map(|(number, _)| number.as_str()).chain(["7"]);
        let expected = valid
            .then(|| values.flat_map(|text| text.parse::<f64>().expect("it is valid").to_le_bytes()).collect::<Vec<_>>());
        prop_assert_eq!(bytes_of("FP64", &format!("[{}]", items.len() + 1), &list).ok(), expected, "{}", list);
    }

    #[test]
    fn no_text_makes_it_panic(text in request_like(), bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = parse(&text);
        let _ = header(&bytes, &DecodeLimits::default());
        let framed = [b"{\"inputs\":[{\"name\":\"X\",\"datatype\":\"FP32\",\"shape\":[2],\"data\":[", bytes.as_slice()];
        let _ = header(&framed.concat(), &DecodeLimits::default());
    }

    #[test]
    fn memory_stays_in_proportion_to_the_text(
        shape in any::<u64>(),
        count in 0..50_usize,
        datatype in proptest::sample::select(vec!["FP64", "INT8", "BYTES"]),
    ) {
        let element = if datatype == "BYTES" { "\"\"" } else { "1" };
        let data = format!("[{}]", vec![element; count].join(","));
        for shape in [shape.to_string(), count.to_string()] {
            let json = with_data(datatype, &format!("[{shape}]"), &data);
            if let Ok(header) = parse(&json) {
                let Content::Json(bytes) = &header.inputs[0].content else { panic!("not binary") };
                prop_assert!(bytes.capacity() <= 4 * json.len());
            }
        }
    }
}
