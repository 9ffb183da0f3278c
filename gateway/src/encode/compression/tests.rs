use std::io::Read;

use flate2::read::{GzDecoder, ZlibDecoder};

use super::*;

#[test]
fn the_highest_weight_wins_and_gzip_among_equals() {
    let (gzip, deflate) = (Some(Encoding::Gzip), Some(Encoding::Deflate));
    let cases = [
        ("", None),
        ("gzip", gzip),
        ("x-gzip", gzip),
        ("GZip", gzip),
        ("deflate", deflate),
        ("gzip, deflate", gzip),
        ("deflate, gzip", gzip),
        ("deflate;q=1, gzip;q=0.1", deflate),
        ("deflate ; q=0.5 , gzip ; Q=0.500", gzip),
        ("gzip;q=0", None),
        ("gzip;q=0.0, deflate;q=0.001", deflate),
        ("br", None),
        ("br, zstd, deflate", deflate),
        ("*", None),
        ("*;q=1, gzip;q=0.1", gzip),
        ("identity", None),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=1", gzip),
        ("identity, gzip", gzip),
        ("identity, deflate", deflate),
        ("gzip;q=2, deflate", deflate),
        ("gzip;q=nan", None),
        ("gzip;q=", None),
        ("gzip;q=-1", None),
        ("gzip;level=9", gzip),
        (",,;q=1,", None),
        ("gzi\u{e9}p, deflate", deflate),
    ];
    for (header, expected) in cases {
        assert_eq!(preferred(header.as_bytes()), expected, "{header}");
    }
    assert_eq!(preferred(b"\xff, gzip"), gzip);
}

#[test]
fn the_parts_become_one_stream() {
    let parts = [Bytes::from_static(b"{}"), Bytes::from_static(&[0; 1000]), Bytes::new()];
    let mut plain = Vec::new();
    GzDecoder::new(&Encoding::Gzip.compress(&parts)[..]).read_to_end(&mut plain).expect("gzip");
    assert_eq!(plain, parts.concat());
    plain.clear();
    ZlibDecoder::new(&Encoding::Deflate.compress(&parts)[..]).read_to_end(&mut plain).expect("zlib");
    assert_eq!(plain, parts.concat());
}
