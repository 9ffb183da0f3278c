//! How a kernel of our own stands in the engine's graph.
#![expect(unsafe_code, reason = "results are allocated without being cleared")]

use std::{any::Any, fmt::Debug};

use tract_onnx::tract_core::internal::*;

use crate::spare;

/// An operator of concrete shapes from `f32` tensors to one.
pub trait Kernel: Debug + Any + Send + Sync {
    fn name(&self) -> &'static str;

    /// The result's shape for inputs of these shapes.
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>>;

    /// The input that becomes the result, if one does: what the kernel does not write stays. The others are what it runs on.
    fn in_place(&self) -> Option<usize> {
        None
    }

    /// Writes every value of the result, but where that is an input or becomes one.
    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()>;
}

/// A kernel as an operator of the engine.
#[derive(Clone, Debug)]
pub struct Own(pub Arc<dyn Kernel>);

impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Own {}

impl Own {
    pub fn new(kernel: impl Kernel) -> Self {
        Self(Arc::new(kernel))
    }

    pub fn as_kernel<K: Kernel>(&self) -> Option<&K> {
        (&*self.0 as &dyn Any).downcast_ref()
    }
}

impl Op for Own {
    fn name(&self) -> StaticName {
        self.0.name().into()
    }

    op_as_typed_op!();
}

impl EvalOp for Own {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let shape = {
            let shapes: TVec<_> = inputs.iter().map(|input| input.shape()).collect();
            self.0.shape(&shapes)?
        };
        // Not copied where nothing else has it, as after the last operator that reads it.
        let reused = self.0.in_place().map(|index| inputs.remove(index).into_tensor());
        let mut result = match reused {
            Some(reused) => reused,
            // SAFETY: the kernel writes every value before any is read.
            None => unsafe { spare::tensor(&shape)? },
        };
        let views: TVec<_> =
            inputs.iter().map(|input| input.to_plain_array_view::<f32>()).collect::<TractResult<_>>()?;
        let slices: TVec<(&[usize], &[f32])> = views
            .iter()
            .map(|view| Ok((view.shape(), view.as_slice().context("a tensor that is not in order")?)))
            .collect::<TractResult<_>>()?;
        {
            let mut view = result.to_plain_array_view_mut::<f32>()?;
            self.0.run(&slices, view.as_slice_mut().context("a tensor that is not in order")?)?;
        }
        Ok(tvec!(result.into_tvalue()))
    }
}

impl TypedOp for Own {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shapes: TVec<_> = inputs
            .iter()
            .map(|fact| {
                ensure!(fact.datum_type == f32::datum_type(), "{:?} is not f32", fact.datum_type);
                fact.shape.as_concrete().context("a shape that is not concrete")
            })
            .collect::<TractResult<_>>()?;
        Ok(tvec!(f32::fact(self.0.shape(&shapes)?)))
    }

    as_op!();
}
