//! Multiplies two matrices: `A`, FP32 `[-1,-1]`, and `B` become `PRODUCT`.
//!
//! A request's parameter `repetitions` has the product made as often, which is how the kernel is measured.

use airlock_guest::{kernels, prelude::*};

struct Matmul;

impl Plugin for Matmul {
    fn load(_: Config, _: Files) -> Result<Self> {
        Ok(Self)
    }

    fn signature(&self) -> Signature {
        Signature::new().input("A", Datatype::Fp32, &[-1, -1]).input("B", Datatype::Fp32, &[-1, -1]).output(
            "PRODUCT",
            Datatype::Fp32,
            &[-1, -1],
        )
    }

    fn infer(&self, request: Request) -> Result<Response> {
        let (a, b) = (request.input("A")?, request.input("B")?);
        let (&[m, k], &[rows, n]) = (a.shape.as_slice(), b.shape.as_slice()) else {
            return Err(Error::failed("the inputs are no matrices"));
        };
        if k != rows {
            return Err(Error::invalid_input(format_args!("A has {k} columns, but B has {rows} rows")));
        }
        let repetitions = match request.parameter("repetitions") {
            None => 1,
            Some(Parameter::Int64(repetitions @ 1..)) => *repetitions,
            Some(_) => {
                return Err(Error::invalid_input("the parameter 'repetitions' is no whole number above 0"));
            }
        };
        let mut product = Tensor::zeroed::<f32>("PRODUCT", &[m, n])?;
        let (a, b, out) = (a.as_slice()?, b.as_slice()?, product.as_mut_slice()?);
        for _ in 0..repetitions {
            kernels::matmul(a, b, None, [m as usize, k as usize, n as usize], out)?;
        }
        Ok(product.into())
    }
}

airlock_guest::export!(Matmul);

#[cfg(test)]
mod tests {
    use super::*;

    fn infer(b: &[u64], repetitions: impl Into<Parameter>) -> Result<Response> {
        let ones = |name, shape: &[u64]| {
            let count: u64 = shape.iter().product();
            Tensor::from_slice(name, shape, &vec![1f32; count as usize]).expect("it fits")
        };
        Matmul.infer(Request {
            id: None,
            parameters: vec![("repetitions".into(), repetitions.into())],
            inputs: vec![ones("A", &[2, 3]), ones("B", b)],
            outputs: vec![],
        })
    }

    #[test]
    fn however_often_it_is_made_the_product_is_the_same() {
        for repetitions in [1i64, 3] {
            let response = infer(&[3, 1], repetitions).expect("the shapes agree");
            assert_eq!(response.outputs[0].shape, [2, 1]);
            assert_eq!(response.outputs[0].as_slice::<f32>(), Ok([3.0, 3.0].as_slice()));
        }
    }

    #[test]
    fn the_caller_is_told_what_does_not_fit() {
        let told = |b: &[u64], repetitions: Parameter| infer(b, repetitions).expect_err("it does not fit");
        assert_eq!(told(&[2, 1], 1i64.into()), Error::invalid_input("A has 3 columns, but B has 2 rows"));
        assert!(matches!(told(&[3, 1], 0i64.into()), Error::InvalidInput(_)));
        assert!(matches!(told(&[3, 1], "2".into()), Error::InvalidInput(_)));
    }
}
