--- Excludes functions from compilation: those that use `...` after they have called a Lua function,
--- and those that loop over tables in a finalizer (engine/loop.lua explains why).
--
-- LuaJIT 2.1.0-beta3 gets `...` wrong when a trace begins in a called function and goes on in the
-- vararg function after the return: `...` is then empty, or something else (gather_spec.lua shows
-- it). A vararg function that packs `...` before it calls anything is safe.

--- Switches the compiler off for these functions.
---@param ... function
return function(...)
  for _, fn in ipairs { ... } do jit.off(fn) end
end
