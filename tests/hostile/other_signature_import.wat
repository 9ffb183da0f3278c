;; Our log, with a parameter less.
(import "airlock:inference/log@0.1.0" "write" (func (param i32 i32)))
