//! `If`, whose branches may differ where only one of them can be taken.
//!
//! The engine's own wants both branches to work and to give the same shapes, whatever the condition. Exporters write
//! branches for ranks and sampling rates that one input never has at once: here a condition that the shapes decide chooses
//! its branch when the graph is read, and of a branch that does not work with the shapes it is enough that nobody takes it.

use tract_onnx::{
    Onnx,
    model::{ParseResult, ParsingContext},
    pb::{GraphProto, NodeProto, attribute_proto::AttributeType},
    tract_hir::internal::*,
};

pub fn register(onnx: &mut Onnx) {
    onnx.op_register.insert("If", parse);
}

fn parse(context: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let graph = |name: &str| -> TractResult<&GraphProto> {
        let attribute = node.attribute.iter().find(|attribute| attribute.name == name);
        let attribute = attribute.filter(|attribute| attribute.r#type == AttributeType::Graph as i32);
        attribute.and_then(|attribute| attribute.g.as_ref()).with_context(|| format!("it has no {name}"))
    };
    let mut closure: Vec<String> = Vec::new();
    let mut branch = |name: &str| -> TractResult<Branch> {
        let ParseResult { model: body, unresolved_inputs, .. } = context.parse_graph(graph(name)?)?;
        let inputs = unresolved_inputs.into_iter().map(|input| {
            let place = closure.iter().position(|known| *known == input).unwrap_or_else(|| {
                closure.push(input);
                closure.len() - 1
            });
            // Behind the condition.
            place + 1
        });
        Ok(Branch { inputs: inputs.collect(), body, analysed: false, fault: None })
    };
    let branches = [branch("else_branch")?, branch("then_branch")?];
    let [otherwise, then] = branches.each_ref().map(|branch| branch.body.outputs.len());
    ensure!(then == otherwise, "its branches have {then} and {otherwise} outputs");
    Ok((Box::new(If { branches }), closure))
}

/// The branches, the one for a false condition first. Inputs: the condition, and what the branches read from outside.
#[derive(Clone, Debug)]
struct If {
    branches: [Branch; 2],
}

#[derive(Clone, Debug)]
struct Branch {
    body: InferenceModel,
    /// For each of the body's inputs the node's input that it is.
    inputs: Vec<usize>,
    analysed: bool,
    /// Why it cannot run with what is known of the inputs. What is known only grows, so that this stays.
    fault: Option<String>,
}

impl Branch {
    /// Works out the body's shapes from those of the node's inputs.
    fn refine(&mut self, outer: &[InferenceFact]) {
        if self.fault.is_none()
            && let Err(error) = self.try_refine(outer)
        {
            self.fault = Some(format!("{error:#}"));
        }
    }

    fn try_refine(&mut self, outer: &[InferenceFact]) -> TractResult<()> {
        let mut changed = !self.analysed;
        for (place, input) in self.inputs.iter().enumerate() {
            let known = self.body.input_fact(place)?;
            let unified = known.unify(&outer[*input])?;
            if unified != *known {
                self.body.set_input_fact(place, unified)?;
                changed = true;
            }
        }
        if changed {
            self.body.analyse(false)?;
            self.analysed = true;
        }
        Ok(())
    }

    /// The body for inputs of these types and shapes.
    fn typed(&self, outer: &[TypedFact]) -> TractResult<TypedModel> {
        if let Some(fault) = &self.fault {
            bail!("{fault}");
        }
        let mut body = self.body.clone();
        for (place, input) in self.inputs.iter().enumerate() {
            let fact = InferenceFact::dt_shape(outer[*input].datum_type, outer[*input].shape.iter());
            let unified = body.input_fact(place)?.unify(&fact)?;
            body.set_input_fact(place, unified)?;
        }
        body.into_typed()
    }
}

impl PartialEq for If {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for If {}

/// The place of the branch for a condition, if that is known.
fn taken(condition: Option<&Tensor>) -> TractResult<Option<usize>> {
    condition.map(|condition| Ok(usize::from(condition.cast_to_scalar::<bool>()?))).transpose()
}

impl Op for If {
    fn name(&self) -> StaticName {
        "If".into()
    }

    not_a_typed_op!();
}

impl EvalOp for If {
    // It is made a typed operator first.
    not_out_of_plan!();
}

impl InferenceOp for If {
    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        let inputs: TVec<InferenceFact> = inputs.into_iter().cloned().collect();
        let mut outputs: TVec<InferenceFact> = outputs.into_iter().cloned().collect();
        let taken = taken(inputs[0].value.concretize().as_deref())?;
        let live: Vec<&mut Branch> = match taken {
            Some(taken) => vec![&mut self.branches[taken]],
            None => self.branches.iter_mut().collect(),
        };
        let mut faults = Vec::new();
        let mut found: Option<Vec<InferenceFact>> = None;
        for branch in live {
            branch.refine(&inputs);
            if let Some(fault) = &branch.fault {
                faults.push(fault.clone());
                continue;
            }
            let facts = (0..outputs.len()).map(|place| branch.body.output_fact(place).cloned());
            let facts = facts.collect::<TractResult<Vec<_>>>()?;
            found = Some(match found {
                Some(other) => facts.iter().zip(&other).map(|(a, b)| common(a, b)).collect(),
                None => facts,
            });
        }
        let found = found.with_context(|| format!("no branch can run: {}", faults.join("; ")))?;
        for (output, fact) in outputs.iter_mut().zip(found) {
            *output = output.unify(&fact)?;
        }
        Ok((inputs, outputs, observed.into_iter().cloned().collect()))
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.branches[0].body.outputs.len())
    }

    fn to_typed(
        &self,
        _: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        let inputs: TVec<OutletId> = node.inputs.iter().map(|outlet| mapping[outlet]).collect();
        let facts = inputs.iter().map(|outlet| target.outlet_fact(*outlet).cloned());
        let facts = facts.collect::<TractResult<Vec<TypedFact>>>()?;
        if let Some(taken) = taken(facts[0].konst.as_deref())? {
            let branch = &self.branches[taken];
            return inline(&node.name, &branch.typed(&facts)?, &branch.inputs, target, &inputs);
        }
        let branches = self.branches.each_ref().map(|branch| Alternative {
            inputs: branch.inputs.clone(),
            body: branch.typed(&facts).map_or_else(|error| Body::Broken(format!("{error:#}")), Body::Typed),
        });
        target.wire_node(&node.name, Choice { branches }, &inputs)
    }

    as_op!();
}

/// What two facts both say.
fn common(a: &InferenceFact, b: &InferenceFact) -> InferenceFact {
    let mut fact = InferenceFact::default();
    if a.datum_type == b.datum_type {
        fact.datum_type = a.datum_type;
    }
    let closed = !a.shape.is_open() && !b.shape.is_open();
    if closed && a.shape.rank() == b.shape.rank() {
        let dims = a.shape.dims().zip(b.shape.dims());
        let dims = dims.map(|(a, b)| if a == b { a.clone() } else { GenericFactoid::Any });
        fact.shape = ShapeFactoid::closed(dims.collect());
    }
    fact
}

/// Puts the nodes of a body into the graph around it.
fn inline(
    name: &str,
    body: &TypedModel,
    body_inputs: &[usize],
    target: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let mut mapping: HashMap<OutletId, OutletId> = HashMap::new();
    for (outlet, input) in body.input_outlets()?.iter().zip(body_inputs) {
        mapping.insert(*outlet, inputs[*input]);
    }
    for id in body.eval_order()? {
        let node = body.node(id);
        if TypedModel::is_source(&node.op) {
            continue;
        }
        let inputs: TVec<OutletId> = node.inputs.iter().map(|outlet| mapping[outlet]).collect();
        let outlets = target.wire_node(format!("{name}.{}", node.name), node.op.clone(), &inputs)?;
        mapping.extend(outlets.iter().enumerate().map(|(slot, outlet)| (OutletId::new(id, slot), *outlet)));
    }
    Ok(body.output_outlets()?.iter().map(|outlet| mapping[outlet]).collect())
}

/// A choice that is made when the graph runs, between branches that give the same types and shapes.
#[derive(Clone, Debug)]
struct Choice {
    branches: [Alternative; 2],
}

#[derive(Clone, Debug)]
struct Alternative {
    inputs: Vec<usize>,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    Typed(TypedModel),
    Ready(Arc<TypedSimplePlan>),
    /// Why it cannot run with inputs of these shapes.
    Broken(String),
}

impl Body {
    fn model(&self) -> Option<&TypedModel> {
        match self {
            Self::Typed(model) => Some(model),
            Self::Ready(plan) => Some(plan.model()),
            Self::Broken(_) => None,
        }
    }
}

impl PartialEq for Choice {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for Choice {}

impl Op for Choice {
    fn name(&self) -> StaticName {
        "If".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Choice {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let taken = &self.branches[usize::from(inputs[0].cast_to_scalar::<bool>()?)];
        let inputs: TVec<TValue> = taken.inputs.iter().map(|input| inputs[*input].clone()).collect();
        match &taken.body {
            Body::Typed(model) => model.clone().into_runnable()?.run(inputs),
            Body::Ready(plan) => plan.run(inputs),
            Body::Broken(fault) => {
                bail!("the branch for this condition cannot run inputs of these shapes: {fault}")
            }
        }
    }
}

impl TypedOp for Choice {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs[0].datum_type == bool::datum_type(), "its condition is not a boolean");
        let mut found: Option<TVec<TypedFact>> = None;
        for model in self.branches.iter().filter_map(|branch| branch.body.model()) {
            let facts = (0..model.outputs.len()).map(|place| Ok(model.output_fact(place)?.without_value()));
            let facts = facts.collect::<TractResult<TVec<_>>>()?;
            if let Some(other) = found.replace(facts.clone()) {
                let same =
                    |(a, b): (&TypedFact, &TypedFact)| (a.datum_type, &a.shape) == (b.datum_type, &b.shape);
                ensure!(
                    facts.iter().zip(&other).all(same),
                    "its branches give {facts:?} and {other:?}, and which one is taken is known only when it runs"
                );
            }
        }
        let faults = self.branches.iter().filter_map(|branch| match &branch.body {
            Body::Broken(fault) => Some(fault.as_str()),
            _ => None,
        });
        found.with_context(|| format!("no branch can run: {}", faults.collect::<Vec<_>>().join("; ")))
    }

    fn codegen(&self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        if !self.branches.iter().any(|branch| matches!(branch.body, Body::Typed(_))) {
            return Ok(None);
        }
        let mut ready = self.clone();
        for branch in &mut ready.branches {
            if let Body::Typed(model) = &branch.body {
                branch.body = Body::Ready(crate::optimise(model.clone())?.into_runnable()?);
            }
        }
        TypedModelPatch::replace_single_op(model, node, &node.inputs, ready).map(Some)
    }
}

#[cfg(test)]
mod tests;
