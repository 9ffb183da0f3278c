//! Never succeeds, to see what a client is told and what the log gets: answers an error, or panics with the text of the
//! request's parameter `panic`.

use airlock_guest::prelude::*;

struct Failing;

impl Plugin for Failing {
    fn load(_: Config, _: Files) -> Result<Self> {
        Ok(Self)
    }

    fn signature(&self) -> Signature {
        Signature::new().input("INPUT0", Datatype::Fp32, &[-1, -1]).output(
            "OUTPUT0",
            Datatype::Fp32,
            &[-1, -1],
        )
    }

    fn infer(&self, request: Request) -> Result<Response> {
        airlock_guest::warn!("about to fail, as always");
        if let Some(Parameter::Text(message)) = request.parameter("panic") {
            panic!("{message}");
        }
        Err(Error::failed("this model always fails"))
    }
}

airlock_guest::export!(Failing);
