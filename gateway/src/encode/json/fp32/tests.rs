use proptest::prelude::*;

use super::*;

fn written(values: &[f32]) -> String {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut json = b"[".to_vec();
    write(
        &mut json,
        raw.as_chunks().0,
        f32::from_le_bytes,
        |value| if value.is_nan() { "NaN" } else { "inf" },
    );
    String::from_utf8(json).expect("ASCII")
}

/// What they are to be written as.
fn expected(values: &[f32]) -> String {
    let texts =
        values.iter().map(|value| zmij::Buffer::new().format(value.abs().copysign(*value)).to_owned());
    format!("[{}", texts.collect::<Vec<_>>().join(","))
}

fn check(values: &[f32]) {
    for values in values.chunks(1000) {
        let text = written(values);
        assert_eq!(text, expected(values));
        for (text, value) in text[1..].split(',').zip(values) {
            assert_eq!(text.parse().map(f32::to_bits), Ok(value.to_bits()), "{text}");
        }
    }
}

#[test]
fn lists_of_any_length_are_written() {
    assert_eq!(written(&[]), "[");
    assert_eq!(
        written(&[0.0, -0.0, 1.0, -2.5, 0.1, 1e-6, 8_388_607.5, 1e20]),
        "[0.0,-0.0,1.0,-2.5,0.1,0.000001,8388607.5,1e+20"
    );
    assert_eq!(written(&[f32::NAN, 1.0, f32::INFINITY]), "[NaN,1.0,inf");
    for length in 0..3 * BLOCK {
        check(&vec![-1.5; length]);
    }
    // The longest that there are.
    check(&[-1.234_567_9e-6; 4 * BLOCK]);
    check(&[-1.000_000_1e12; 4 * BLOCK]);
    check(&[f32::MIN; 4 * BLOCK]);
}

#[test]
fn values_of_every_exponent_are_shortest() {
    let finite = |bits: u32| Some(f32::from_bits(bits)).filter(|value| value.is_finite());
    // Those around each power of two, where the distance to the next value changes, and some in between.
    let around = (0..=255_u32).flat_map(|exponent| {
        (0..2000)
            .map(move |step: u32| (exponent << 23).wrapping_add(step) - if exponent > 0 { 1000 } else { 0 })
    });
    check(&around.filter_map(finite).collect::<Vec<_>>());
    check(&(0..=u32::MAX).step_by(20_011).filter_map(finite).collect::<Vec<_>>());
}

#[test]
fn round_decimals_and_their_neighbours_are_shortest() {
    let mut values = Vec::new();
    for power in -8..=9 {
        for digits in (1..1000).chain([9_999_999, 16_777_215, 12_345_678, 99_999_999]) {
            let value: f32 = format!("{digits}e{power}").parse().expect("a number");
            values.extend([value, -value, value.next_up(), value.next_down()]);
            let value: f32 = format!("{digits}e{}", power - 7).parse().expect("a number");
            values.extend([value, -value, value.next_up(), value.next_down()]);
        }
    }
    check(&values);
}

/// Every value there is, which takes some minutes where it is optimised.
#[test]
#[ignore = "takes minutes"]
fn all_values_are_shortest() {
    for first in (0..=u32::MAX).step_by(BLOCK) {
        let values = block(first, 1);
        let text = here(&values);
        assert_eq!(text, each(&values));
        for (text, value) in text[1..].split(',').zip(values).filter(|(_, value)| value.is_finite()) {
            assert_eq!(text, zmij::Buffer::new().format_finite(value), "{value:e}");
        }
    }
}

/// The values of these bits, and of every so many further on.
fn block(first: u32, step: u32) -> [f32; BLOCK] {
    let mut bits = first;
    std::array::from_fn(|_| {
        let value = f32::from_bits(bits);
        bits = bits.wrapping_add(step);
        value
    })
}

fn other(room: &mut [u8; ROOM], value: f32) -> usize {
    write_other(room, value, |_| "null")
}

/// A block's text as this processor writes it.
fn here(values: &[f32; BLOCK]) -> String {
    let mut written = [0; WRITTEN];
    let end = write_block(values, BLOCK, &mut written, other);
    String::from_utf8(written[..end].to_vec()).expect("ASCII")
}

/// One by one, as on other processors.
fn each(values: &[f32; BLOCK]) -> String {
    let mut written = [0; WRITTEN];
    let end = write_each(values, BLOCK, &mut written, other);
    String::from_utf8(written[..end].to_vec()).expect("ASCII")
}

#[test]
fn all_processors_write_the_same() {
    for start in (0..=u32::MAX - 64 * 997).step_by(64 * 997 * 31) {
        let values = block(start, 997);
        assert_eq!(here(&values), each(&values));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_values_are_shortest(bits in proptest::collection::vec(any::<u32>(), 0..300), near in -4.0..4.0_f32) {
        let any = bits.iter().map(|bits| f32::from_bits(*bits)).filter(|value| value.is_finite());
        // The same bits as values of one size.
        let near = bits.iter().map(|bits| near * f32::from_bits(bits & 0x7f_ffff | 0x3f80_0000));
        check(&any.chain(near).collect::<Vec<_>>());
    }

    #[test]
    fn every_processor_finds_the_digits(high in 0..100_000_000_u64, low in 0..100_000_000_u64) {
        let digits = portable::decimal_digits(high, low);
        prop_assert_eq!(decimal_digits(high, low), digits);
    }
}
