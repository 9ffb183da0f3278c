;; Never gets as far as `load`.
(func $start (loop $for_ever (br $for_ever)))
(start $start)
