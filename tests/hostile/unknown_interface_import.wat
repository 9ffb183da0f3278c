;; An interface that the package does not have.
(import "airlock:inference/files@0.1.0" "open" (func (param i32 i32)))
