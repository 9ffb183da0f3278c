//! Several requests as one, and its response as several: in V2's layout the rows of a tensor lie one after the other.

use bytes::{Bytes, BytesMut};

use crate::tensor::{Datatype, InferRequest, InferResponse, Tensor, element_count, elements};

/// One request with the rows of all, and the last row again until there are `padded` rows. All have the same inputs with rows of
/// the same shape. `None` if a row cannot be told from another one.
pub(super) fn merge(requests: &[&InferRequest], padded: u64) -> Option<InferRequest> {
    let (first, rest) = requests.split_first()?;
    let mut merged = InferRequest::default();
    for input in &first.inputs {
        let mut parts = vec![input];
        for request in rest {
            parts.push(request.inputs.iter().find(|other| other.name == input.name)?);
        }
        merged.inputs.push(joined(&parts, padded)?);
    }
    Some(merged)
}

fn joined(parts: &[&Tensor], padded: u64) -> Option<Tensor> {
    let first = parts.first()?;
    let rows = parts.iter().map(|part| part.shape.first().copied()).sum::<Option<u64>>()?;
    let last = parts.last()?;
    let last_row = cut(last, last.shape.first()?.checked_sub(1)?, 1)?;
    let padding = usize::try_from(padded.checked_sub(rows)?).ok()?;
    let length = parts.iter().map(|part| part.bytes.len()).sum::<usize>() + padding * last_row.len();
    let mut bytes = BytesMut::with_capacity(length);
    parts.iter().for_each(|part| bytes.extend_from_slice(&part.bytes));
    (0..padding).for_each(|_| bytes.extend_from_slice(&last_row));
    let mut shape = first.shape.clone();
    *shape.first_mut()? = padded;
    Some(Tensor {
        name: first.name.clone(),
        datatype: first.datatype,
        shape,
        parameters: Vec::new(),
        bytes: bytes.freeze(),
    })
}

/// The response to each of the requests, which had so many rows of `padded` in all; `None` if an output has not as many.
pub(super) fn split(response: InferResponse, rows: &[u64], padded: u64) -> Option<Vec<InferResponse>> {
    let mut parts = vec![InferResponse::default(); rows.len()];
    for output in response.outputs {
        if output.shape.first() != Some(&padded) {
            return None;
        }
        let mut from = 0;
        for (part, rows) in parts.iter_mut().zip(rows) {
            let mut shape = output.shape.clone();
            *shape.first_mut()? = *rows;
            // A copy: else whoever reads its part slowly would hold all of it.
            let bytes = Bytes::copy_from_slice(&cut(&output, from, *rows)?);
            let (name, datatype) = (output.name.clone(), output.datatype);
            part.outputs.push(Tensor { name, datatype, shape, parameters: Vec::new(), bytes });
            from += rows;
        }
    }
    Some(parts)
}

/// The bytes of some rows of a tensor.
fn cut(tensor: &Tensor, from: u64, rows: u64) -> Option<Bytes> {
    let each = usize::try_from(element_count(tensor.shape.get(1..)?)?).ok()?;
    let (from, rows) = (usize::try_from(from).ok()?, usize::try_from(rows).ok()?);
    let Some(size) = tensor.datatype.element_size() else {
        return cut_elements(tensor, from.checked_mul(each)?, rows.checked_mul(each)?);
    };
    let row = each.checked_mul(size)?;
    let range = from.checked_mul(row)?..from.checked_add(rows)?.checked_mul(row)?;
    (range.end <= tensor.bytes.len()).then(|| tensor.bytes.slice(range))
}

/// The same of BYTES, whose elements have lengths of their own.
fn cut_elements(tensor: &Tensor, skip: usize, take: usize) -> Option<Bytes> {
    const PREFIX: usize = 4;
    debug_assert_eq!(tensor.datatype, Datatype::Bytes);
    let mut lengths = elements(&tensor.bytes).map(|element| element.ok().map(|bytes| bytes.len() + PREFIX));
    let start = lengths.by_ref().take(skip).sum::<Option<usize>>()?;
    let length = lengths.take(take).sum::<Option<usize>>()?;
    Some(tensor.bytes.slice(start..start + length))
}
