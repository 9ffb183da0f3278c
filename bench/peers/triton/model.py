"""Answers INPUT0 as OUTPUT0, in Triton's Python backend."""

import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        return [triton.InferenceResponse(output_tensors=[echo(request)]) for request in requests]


def echo(request):
    tensor = triton.get_input_tensor_by_name(request, "INPUT0")
    return triton.Tensor("OUTPUT0", tensor.as_numpy())
