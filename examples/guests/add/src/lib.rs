use airlock_guest::{Datatype::Fp32, prelude::*};

pub struct Add;

impl Plugin for Add {
    fn load(_: Config, _: Files) -> Result<Self> {
        Ok(Self)
    }

    fn signature(&self) -> Signature {
        Signature::new().input("A", Fp32, &[-1]).input("B", Fp32, &[-1]).output("SUM", Fp32, &[-1])
    }

    fn infer(&self, request: Request) -> Result<Response> {
        let (a, b) = (request.input("A")?, request.input("B")?);
        if a.shape != b.shape {
            return Err(Error::invalid_input("A and B must have the same shape"));
        }
        let sum: Vec<f32> = a.as_slice::<f32>()?.iter().zip(b.as_slice()?).map(|(a, b)| a + b).collect();
        Ok(Tensor::from_slice("SUM", &a.shape, &sum)?.into())
    }
}
export!(Add);
