use std::io::Write;

use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use proptest::prelude::*;

use super::*;
use crate::decode::Kind;

const LIMIT: usize = 1 << 20;

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

fn zlib(plain: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

fn bare_deflate(plain: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

fn decompressed(body: Vec<u8>, encoding: &str, limit: usize) -> Result<Bytes, DecodeError> {
    decompress(body.into(), Some(encoding.as_bytes()), limit)
}

fn refused(body: Vec<u8>, encoding: &str) -> String {
    let error = decompressed(body, encoding, LIMIT).expect_err("to be refused");
    assert_eq!(error.kind(), Kind::Invalid);
    error.to_string()
}

#[test]
fn gzip_deflate_and_identity_are_taken_off() {
    let plain = b"{\"inputs\":[]}".repeat(1000);
    for encoding in ["gzip", "x-gzip", "GZIP", " gzip "] {
        assert_eq!(decompressed(gzip(&plain), encoding, LIMIT), Ok(plain.clone().into()), "{encoding}");
    }
    assert_eq!(decompressed(zlib(&plain), "deflate", LIMIT), Ok(plain.clone().into()));
    assert_eq!(decompressed(plain.clone(), "identity", LIMIT), Ok(plain.clone().into()));
    assert_eq!(decompressed(plain.clone(), "", LIMIT), Ok(plain.clone().into()));
    assert_eq!(decompress(plain.clone().into(), None, LIMIT), Ok(plain.into()));
}

#[test]
fn other_encodings_are_named_and_refused() {
    for encoding in ["br", "zstd", "gzip, gzip", "gzip;q=1", "\u{1b}[31m"] {
        let error = decompressed(Vec::new(), encoding, LIMIT).expect_err("to be refused");
        assert_eq!(error.kind(), Kind::UnsupportedEncoding, "{encoding}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
}

#[test]
fn the_limit_is_met_to_the_byte() {
    for plain in [vec![7; LIMIT], vec![7; 1], Vec::new()] {
        let limit = plain.len();
        assert_eq!(decompressed(gzip(&plain), "gzip", limit), Ok(plain.clone().into()));
        assert_eq!(decompressed(zlib(&plain), "deflate", limit), Ok(plain.clone().into()));
    }
    for plain in [vec![7; LIMIT + 1], vec![7; 64 * LIMIT]] {
        let error = DecodeError::TooLarge { limit: LIMIT };
        assert_eq!(error.kind(), Kind::TooLarge);
        assert_eq!(decompressed(gzip(&plain), "gzip", LIMIT), Err(error));
        assert_eq!(decompressed(zlib(&plain), "deflate", LIMIT), Err(DecodeError::TooLarge { limit: LIMIT }));
    }
}

#[test]
fn the_buffer_never_outgrows_the_limit() {
    let bomb = gzip(&vec![0; 64 * LIMIT]);
    let mut largest = 0;
    struct Watched<'a, R>(R, &'a mut usize);
    impl<R: Read> Read for Watched<'_, R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            *self.1 = buffer.len().max(*self.1);
            self.0.read(buffer)
        }
    }
    let read = read_bounded(&mut Watched(GzDecoder::new(bomb.as_slice()), &mut largest), bomb.len(), LIMIT);
    assert!(matches!(read, Err(ReadError::TooLarge { limit: LIMIT })));
    assert!(largest <= LIMIT);

    let small = gzip(b"small");
    let read = read_bounded(&mut GzDecoder::new(small.as_slice()), small.len(), usize::MAX);
    assert!(read.is_ok_and(|buffer| buffer.capacity() <= 4096));
}

#[test]
fn broken_streams_are_refused() {
    let plain = b"0123456789".repeat(100);
    for (encoding, good) in [("gzip", gzip(&plain)), ("deflate", zlib(&plain))] {
        refused(Vec::new(), encoding);
        refused(b"{\"inputs\":[]}".to_vec(), encoding);
        for length in [1, good.len() / 2, good.len() - 1] {
            refused(good[..length].to_vec(), encoding);
        }
        let mut checksum = good.clone();
        // The checksum of gzip is followed by the length, that of zlib by nothing.
        let position = checksum.len() - if encoding == "gzip" { 8 } else { 1 };
        checksum[position] ^= 1;
        refused(checksum, encoding);
        let trailing = [good.as_slice(), b"x"].concat();
        assert!(refused(trailing, encoding).ends_with("bytes follow the end of the stream"));
        let two_members = [good.clone(), good].concat();
        assert!(refused(two_members, encoding).ends_with("bytes follow the end of the stream"));
    }
    assert!(refused(bare_deflate(&plain), "deflate").contains("zlib container"));
}

proptest! {
    #[test]
    fn what_was_compressed_comes_back(plain in proptest::collection::vec(any::<u8>(), 0..20_000)) {
        prop_assert_eq!(decompressed(gzip(&plain), "gzip", LIMIT), Ok(plain.clone().into()));
        prop_assert_eq!(decompressed(zlib(&plain), "deflate", LIMIT), Ok(plain.clone().into()));
    }

    #[test]
    fn no_bytes_make_it_panic_or_exceed_the_limit(
        body in proptest::collection::vec(any::<u8>(), 0..300),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        limit in 0..500_usize,
    ) {
        let mut damaged = gzip(&body);
        for (index, byte) in flips {
            let position = index.index(damaged.len());
            damaged[position] ^= byte;
        }
        for (body, encoding) in [(damaged, "gzip"), (body.clone(), "gzip"), (body, "deflate")] {
            if let Ok(plain) = decompressed(body, encoding, limit) {
                prop_assert!(plain.len() <= limit);
            }
        }
    }
}
