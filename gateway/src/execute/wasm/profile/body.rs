//! Bounds on one function: compiling takes time and memory in the product of its locals and its blocks.

use wasmparser::{BinaryReaderError, FunctionBody, Operator};

/// Bytes of one function's body.
const MAX_BODY: usize = 256 << 10;
const MAX_LOCALS: u64 = 10_000;
/// Blocks, loops and ifs of one function.
const MAX_BLOCKS: u64 = 20_000;
/// Locals times blocks. 50 million keep the compiler busy for about 0.1 s and 50 MB.
const MAX_PRODUCT: u64 = 50_000_000;

/// What is wrong with the body, if anything.
pub(super) fn check(body: &FunctionBody<'_>) -> Result<Option<String>, BinaryReaderError> {
    if body.range().len() > MAX_BODY {
        return Ok(Some(format!("has {} bytes, at most {MAX_BODY} are admitted", body.range().len())));
    }
    let mut locals = 0u64;
    for group in body.get_locals_reader()? {
        locals += u64::from(group?.0);
    }
    if locals > MAX_LOCALS {
        return Ok(Some(format!("has {locals} locals, at most {MAX_LOCALS} are admitted")));
    }
    let mut blocks = 0u64;
    for operator in body.get_operators_reader()? {
        if matches!(operator?, Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. }) {
            blocks += 1;
        }
    }
    if blocks > MAX_BLOCKS || blocks * locals > MAX_PRODUCT {
        return Ok(Some(format!(
            "has {blocks} blocks and {locals} locals; at most {MAX_BLOCKS} blocks are admitted, and {MAX_PRODUCT} \
             blocks times locals"
        )));
    }
    Ok(None)
}
