//! Two inputs and two outputs of different datatypes: `INPUT0` comes back as `OUTPUT0`, `INPUT1` as `OUTPUT1`.

use airlock_guest::prelude::*;

struct TwoIo;

impl Plugin for TwoIo {
    fn load(_: Config, _: Files) -> Result<Self> {
        Ok(Self)
    }

    fn signature(&self) -> Signature {
        Signature::new()
            .input("INPUT0", Datatype::Fp32, &[1, 4])
            .input("INPUT1", Datatype::Int32, &[-1])
            .output("OUTPUT0", Datatype::Fp32, &[1, 4])
            .output("OUTPUT1", Datatype::Int32, &[-1])
    }

    fn infer(&self, mut request: Request) -> Result<Response> {
        // An output that was not asked for need not be made.
        let mut outputs = Vec::new();
        for (input, output) in [("INPUT0", "OUTPUT0"), ("INPUT1", "OUTPUT1")] {
            if request.wants(output) {
                outputs.push(request.take(input)?.renamed(output));
            }
        }
        Ok(Response::new(outputs))
    }
}

airlock_guest::export!(TwoIo);
