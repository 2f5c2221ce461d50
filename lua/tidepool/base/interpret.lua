--- Functions that LuaJIT is not to compile: those that use `...` after they have called a Lua function, and those that loop over tables in a
-- finalizer (engine/loop.lua says why).
--
-- LuaJIT 2.1.0-beta3 gets `...` wrong where a trace begins in a function that was called and goes on in the vararg function after the
-- return: it is empty, or something else, then (gather_spec.lua shows it). A vararg function that packs `...` before it calls anything needs not be
-- interpreted.

--- Switches the compiler off for these functions.
---@param ... function
return function(...)
  for _, fn in ipairs { ... } do jit.off(fn) end
end
