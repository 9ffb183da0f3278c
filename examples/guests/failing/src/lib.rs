//! Always answers an error, to see what a client is told.

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

    fn infer(&self, _: Request) -> Result<Response> {
        airlock_guest::warn!("about to fail, as always");
        Err(Error::failed("this model always fails"))
    }
}

airlock_guest::export!(Failing);
