--- The plain loop, for comparison.

dofile(arg[0]:match "^(.*/)" .. "work.lua")(function(f, inputs, take)
  for i = 1, #inputs do take(f(inputs[i])) end
end, arg)
