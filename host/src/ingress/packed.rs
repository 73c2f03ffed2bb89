//! A packed body, unpacked: never to more than the bound of a body, whatever its size claims.

use std::io::{BufRead, Read};

use axum::body::Bytes;
use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};

use super::problem::Problem;
use super::shape::Packing;

/// The body that was packed; `most`: its bytes at most, beyond which nothing is unpacked.
pub(super) fn unpacked(packing: Packing, bytes: &[u8], most: usize) -> Result<Bytes, Problem> {
    match packing {
        Packing::Gzip => whole(GzDecoder::new(bytes), most, GzDecoder::into_inner),
        Packing::Deflate if in_envelope(bytes) => whole(ZlibDecoder::new(bytes), most, ZlibDecoder::into_inner),
        Packing::Deflate => whole(DeflateDecoder::new(bytes), most, DeflateDecoder::into_inner),
    }
}

fn whole<R: Read, I: BufRead>(reader: R, most: usize, rest: impl Fn(R) -> I) -> Result<Bytes, Problem> {
    let mut out = Vec::new();
    let mut bounded = reader.take((most as u64).saturating_add(1));
    bounded.read_to_end(&mut out).map_err(|_| Problem::Packed)?;
    if out.len() > most {
        return Err(Problem::TooLarge(most));
    }
    // Something behind it would be left unread.
    match rest(bounded.into_inner()).fill_buf() {
        Ok([]) => Ok(out.into()),
        _ => Err(Problem::Packed),
    }
}

/// What is called deflate is mostly zlib: two bytes before it, and a sum behind it.
fn in_envelope(bytes: &[u8]) -> bool {
    matches!(bytes, [first, second, ..] if first & 0x0f == 8 && u16::from_be_bytes([*first, *second]) % 31 == 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_packing_gives_the_body_back_and_a_cut_or_longer_one_is_refused() {
        let body = b"event=client.edit&clid=5".repeat(20);
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(&body).unwrap();
        let mut deflate = DeflateEncoder::new(Vec::new(), Compression::default());
        deflate.write_all(&body).unwrap();
        for (packing, packed) in [
            (Packing::Gzip, gzip(&body)),
            (Packing::Deflate, zlib.finish().unwrap()),
            (Packing::Deflate, deflate.finish().unwrap()),
        ] {
            assert_eq!(unpacked(packing, &packed, 480).unwrap(), body);
            assert_eq!(unpacked(packing, &packed, 479), Err(Problem::TooLarge(479)));
            assert_eq!(unpacked(packing, &packed[..packed.len() - 3], 10_000), Err(Problem::Packed));
            assert_eq!(unpacked(packing, &[&packed[..], b"x"].concat(), 10_000), Err(Problem::Packed));
        }
        for packing in [Packing::Gzip, Packing::Deflate] {
            assert_eq!(unpacked(packing, b"", 10), Err(Problem::Packed));
            assert_eq!(unpacked(packing, b"event=client.edit", 100), Err(Problem::Packed));
        }
    }

    #[test]
    fn a_bomb_is_unpacked_no_further_than_the_bound() {
        let bomb = gzip(&vec![b' '; 256 << 20]);
        assert!(bomb.len() < 512 << 10);
        let began = std::time::Instant::now();
        assert_eq!(unpacked(Packing::Gzip, &bomb, 1 << 20), Err(Problem::TooLarge(1 << 20)));
        assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for packing in [Packing::Gzip, Packing::Deflate] {
                drop(unpacked(packing, &bytes, 1_000));
            }
        }
    }
}
