;; What compilers import when they are not told what there is.
(import "env" "abort" (func $abort (param i32 i32)))
