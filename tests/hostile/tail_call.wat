;; A call that takes the place of its caller.
(func $self (return_call $self))
