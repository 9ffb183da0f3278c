;; An exception handler.
(tag $tag)
(func (throw $tag))
