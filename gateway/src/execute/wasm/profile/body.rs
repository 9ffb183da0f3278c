//! Bounds on functions: compiling takes time and memory in the product of a function's locals and its branches.

use wasmparser::{BinaryReaderError, FunctionBody, Operator};

/// Bytes of one function's body.
const MAX_BODY: usize = 256 << 10;
const MAX_LOCALS: u64 = 10_000;
/// Blocks, loops and ifs of one function.
const MAX_BLOCKS: u64 = 20_000;
/// Blocks inside one another.
const MAX_NESTING: u64 = 5_000;
/// Targets of all `br_table` of one function.
const MAX_TARGETS: u64 = 20_000;
/// Locals times branches: blocks and targets. 50 million keep the compiler busy for about 0.1 s and 50 MB.
const MAX_PRODUCT: u64 = 50_000_000;
/// The same over all functions.
const MAX_SUM: u64 = 2_000_000_000;

/// What the functions that were read so far cost a compiler, all together.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    sum: u64,
}

impl Bodies {
    /// What is wrong with a body, if anything.
    pub(super) fn check(&mut self, body: &FunctionBody<'_>) -> Result<Option<String>, BinaryReaderError> {
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
        let (mut blocks, mut targets) = (0u64, 0u64);
        let (mut depth, mut deepest) = (0u64, 0u64);
        for operator in body.get_operators_reader()? {
            match operator? {
                Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => {
                    blocks += 1;
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                // The last one is the function's own.
                Operator::End => depth = depth.saturating_sub(1),
                Operator::BrTable { targets: more } => targets += u64::from(more.len()) + 1,
                _ => {}
            }
        }
        if deepest > MAX_NESTING {
            return Ok(Some(format!("has blocks nested {deepest} deep, at most {MAX_NESTING} are admitted")));
        }
        if targets > MAX_TARGETS {
            return Ok(Some(format!(
                "has {targets} targets in its br_table, at most {MAX_TARGETS} are admitted"
            )));
        }
        let product = (blocks + targets) * locals;
        if blocks > MAX_BLOCKS || product > MAX_PRODUCT {
            return Ok(Some(format!(
                "has {blocks} blocks, {targets} br_table targets and {locals} locals; at most {MAX_BLOCKS} blocks are \
                 admitted, and {MAX_PRODUCT} blocks and targets times locals"
            )));
        }
        self.sum += product;
        if self.sum > MAX_SUM {
            return Ok(Some(format!(
                "is one too many: blocks and targets times locals, over all functions, may come to {MAX_SUM}"
            )));
        }
        Ok(None)
    }
}
