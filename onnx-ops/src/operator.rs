//! How an operator of our own for rows of numbers (of the domain ai.onnx.ml) stands in the engine's graphs: the one in which
//! shapes are inferred, and the one that is planned.

use std::fmt::Debug;

use tract_onnx::tract_hir::internal::*;

/// An operator of one tensor to one or two.
pub trait Operator: Debug + Clone + Eq + Send + Sync + 'static {
    fn name(&self) -> StaticName;

    /// How many tensors it gives.
    fn outputs(&self) -> usize {
        1
    }

    /// What is known of types and shapes before the graph is run.
    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        input: &'p TensorProxy,
        outputs: &'p [TensorProxy],
    ) -> InferenceResult;

    /// The same for inputs of a type.
    fn for_input(&self, _: DatumType) -> Self {
        self.clone()
    }

    /// Types and shapes of what it gives.
    fn facts(&self, input: &TypedFact) -> TractResult<TVec<TypedFact>>;

    fn run(&self, input: TValue) -> TractResult<TVec<TValue>>;
}

/// As the engine's parser wants it.
pub fn op(operator: impl Operator) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(Own(operator)), Vec::new()))
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Own<O>(O);

impl<O: Operator> Expansion for Own<O> {
    fn name(&self) -> StaticName {
        self.0.name()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.0.outputs())
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, self.0.outputs())?;
        self.0.rules(solver, &inputs[0], outputs)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let input = model.outlet_fact(inputs[0])?.datum_type;
        model.wire_node(prefix, Self(self.0.for_input(input)), inputs)
    }
}

impl<O: Operator> Op for Own<O> {
    fn name(&self) -> StaticName {
        self.0.name()
    }

    op_as_typed_op!();
}

impl<O: Operator> EvalOp for Own<O> {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.0.run(args_1!(inputs))
    }
}

impl<O: Operator> TypedOp for Own<O> {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [input] = inputs else { bail!("it takes one input") };
        self.0.facts(input)
    }
}
