-- infer.lua: finds out types, lanes and captures in a function before any C is written.
--
-- A Program is one translation. It has instances, one for each function and the kinds of its
-- arguments: the function itself first, then its helper functions. For each instance a walk over
-- the tree is repeated until nothing changes; it finds
--   * types: "num" (double or float), "int" (int32, from bit.* and integer arrays), "long" (loop
--     counters, indexes of a grid), "int64" and "uint64" (see wide.lua), "bool", "nil"; "k" is a
--     whole literal, which becomes what it meets; "maybe" is a number or false, as `c and x` gives,
--     which only `or` and conditions can take ("maybe int64" and "maybe uint64" the same of those);
--   * what varies between the lanes of a vector. In the scalar form (one lane) nothing does;
--   * what is captured: numbers, typed arrays, and plain tables as lists of numbers become
--     arguments of the kernel, read anew at each call; functions, booleans and nil are baked in,
--     and remembered so that a change is noticed (Program.baked);
--   * that every local has a value, or is known to have none (nil), where it is read: parameters
--     that are given nothing are nil, and what is made of that (`k = k or 2`, `if not s then`) is
--     known here;
--   * what every path returns.
-- Code that a device cannot run is refused here, with the line, the construct, the reason and a way
-- out, so that emit.lua can write everything that has passed.

local abi = require "tidepool.base.abi"
local constants = require "tidepool.translate.constants"
local lower = require "tidepool.translate.lower"
local recursion = require "tidepool.translate.recursion"
local source = require "tidepool.translate.source"
local builtins = require "tidepool.translate.builtins"
local wide = require "tidepool.translate.wide"
local wide_rules = require "tidepool.translate.infer.wide"

local infer = {}

---@class tidepool.gpu.Static a value of the host that a name or `a.b` in the text stands for
---@field path string as written, for messages and names
---@field key string identifies where it is kept
---@field value any as of now
---@field read fun(): any as of the call
---@field nested tidepool.gpu.Def? instead of a value: a function written inside the translated one

local ARRAY_TYPES = {
    double = "num", float = "num", uint32 = "num", int32 = "int", int16 = "int", int8 = "int", uint16 = "int", uint8 = "int",
    int64 = "int64", uint64 = "uint64",
}
-- Types that only inputs have: the indexes of a grid.
local PLACE_TYPES = { plane = "long", row = "long", column = "long" }
local NUMERIC = { num = true, int = true, long = true, k = true }
local WIDE, MAYBE = wide.KINDS, wide.MAYBE
local INSTANCES_MAX, FAILURES_MAX, NUMBERS_MAX = 500, abi.KERNEL_FAILURES_MAX, abi.KERNEL_DETAILS_MAX

-- LuaJIT puts file and line before assert's message, Lua does not. The device does what the running
-- one does.
local ASSERT_TELLS_LINE = select(2, pcall(function() assert(false, "x") end)) ~= "x"

local Program = {}
Program.__index = Program

-- Raises the refusal of a construct. `at` is a node, or anything with a line.
local function refuse(inst, at, format, ...)
    local program = inst.program
    local inside = inst.fn.name ~= program.name and inst.fn.name and (" in '%s':"):format(inst.fn.name) or ""
    error({ refusal = ("%s:%d: gpu function%s:%s %s"):format((at.source or inst.fn.source).file, at.line,
        program.name and (" '%s'"):format(program.name) or "", inside, format:format(...)) }, 0)
end

---What makes a captured value a typed array: ctype, n and data.
---@return string? ctype
function infer.array_type(value)
    local kind = type(value)
    if kind ~= "table" and kind ~= "userdata" and kind ~= "cdata" then return end
    -- who asks an array for `data` may write to it; tests have arrays that have nothing else
    local ok, ctype, n, data = pcall(function() return value.ctype, value.n or #value, value.elements or value.data end)
    if ok and ARRAY_TYPES[ctype] and type(n) == "number" and data ~= nil then return ctype end
end

---Whether a value is a plain list of numbers: 1 to n, at least one, without holes. It may have
---fields beside them. Of 64-bit integers, all of one kind, too: then that is told.
---@return boolean
---@return "int64"|"uint64"|nil
function infer.is_list(value)
    if type(value) ~= "table" or debug.getmetatable(value) ~= nil then return false end
    local n, count, kind = #value, 0, wide.kind_of(value[1])
    for key, each in next, value do
        if type(key) == "number" then
            if (kind and wide.kind_of(each) or not kind and type(each) == "number") ~= (kind or true) then return false end
            if key < 1 or key > n or key ~= math.floor(key) then return false end
            count = count + 1
        end
    end
    return n > 0 and count == n, kind
end

---The element type of a plain list of numbers; nil when it is none.
function infer.list_type(value)
    local is_list, kind = infer.is_list(value)
    return is_list and (kind or "double") or nil
end

---The list of the numbers that a list of plain tables has at this key; nil where one has none.
function infer.column(value, key)
    if type(value) ~= "table" or debug.getmetatable(value) ~= nil then return end
    local list, count = {}, 0
    for at, each in next, value do
        if type(at) == "number" then
            if type(each) ~= "table" or debug.getmetatable(each) ~= nil or type(each[key]) ~= "number" then return end
            list[at], count = each[key], count + 1
        end
    end
    return infer.is_list(list) and #list == count and list or nil
end

---------------------------------------------------------------------------------------------------
-- Functions and captured values

-- Finds the text of a function value and what is known about it; raises when it has no text.
local function function_of(program, value, name, blame)
    local fn = program.functions[value]
    if fn then return fn end
    local found, why = source.find(value, program.text_of)
    if not found then
        local text = ("function '%s' cannot be translated: %s"):format(name or "?", why)
        if blame then refuse(blame.inst, blame.at, "%s", text) end
        local info = debug.getinfo(value, "S")
        error({ refusal = ("%s:%d: gpu %s"):format(info.short_src, math.max(info.linedefined, 0), text) }, 0)
    end
    fn = { value = value, source = found, def = found.def, name = name, env = debug.getfenv(value), outside = {} }
    local outer = found.def.outer
    while outer do
        fn.outside[outer] = true
        outer = outer.outer
    end
    program.functions[value] = fn
    return fn
end

-- Gives the variable that a name stands for. Locals of functions around the translated one are
-- captured values, not variables.
local function variable_of(inst, node)
    if node.var and not inst.fn.outside[node.var.def] then return node.var end
end

local function bake(inst, static)
    inst.program.baked[static.key] = static
    return static
end

-- The host's value behind a name that is no local of the function `fn`: an upvalue's or a global's.
function infer.static_outside(fn, name)
    local index = fn.source.upvalues[name]
    if index then
        local value = fn.value
        local function read()
            local _, now = debug.getupvalue(value, index)
            return now
        end
        return { path = name, key = tostring(debug.upvalueid(value, index)), value = read(), read = read }
    end
    local env = fn.env
    local function read() return env[name] end
    return { path = name, key = tostring(env) .. "." .. name, value = read(), read = read, is_global = true }
end

local static_of

local function static_name(inst, node)
    local var = variable_of(inst, node)
    if var then
        local at = inst
        while at do
            local known = at.vars[var]
            if known then return known.static end
            at = at.outer
        end
        return
    end
    return infer.static_outside(inst.fn, node.name)
end

local function static_index(inst, node)
    local base = static_of(inst, node.object)
    if not base or base.nested then return end
    local key
    if node.key.tag == "String" or node.key.tag == "Number" then
        key = node.key.value
    else
        return
    end
    local is_array = infer.array_type(base.value)
    if is_array and type(key) == "number" then return end
    if type(base.value) ~= "table" and not is_array then
        refuse(inst, node, "'%s' is a %s, which has no fields", base.path, type(base.value))
    end
    local path = type(key) == "string" and ("%s.%s"):format(base.path, key) or ("%s[%.14g]"):format(base.path, key)
    local function read() return base.read()[key] end
    local ok, value = pcall(read)
    if not ok then refuse(inst, node, "reading '%s' raises an error: %s", path, tostring(value)) end
    return { path = path, key = base.key .. "." .. tostring(key), value = value, read = read, base = base.value }
end

local UPDATES = { add = "+", max = "max", min = "min" }

-- For a call `a:add(i, v)`, `a:max(i, v)` or `a:min(i, v)` on a typed array, the assignment that
-- means the same, which is an update; nil for other calls.
local function as_update(inst, node)
    local method = node.call
    local static = method.tag == "Method" and UPDATES[method.name] and static_of(inst, method.object)
    if not static or static.nested or not infer.array_type(static.value) then return end
    if #method.args ~= 2 then refuse(inst, node, "'%s:%s' without an index and a value", static.path, method.name) end
    if not method.update then
        local line, key, value = node.line, method.args[1], method.args[2]
        local function element() return { tag = "Index", line = line, object = method.object, key = key } end
        local made = { tag = "Binop", op = "+", line = line, left = element(), right = value }
        if method.name ~= "add" then
            local path, fn = "math." .. method.name, math[method.name]
            local fixed = { path = path, key = path, value = fn, read = function() return fn end }
            made = { tag = "Call", line = line, callee = { tag = "Fixed", line = line, static = fixed }, args = { element(), value } }
        end
        method.update = { tag = "Assign", line = line, targets = { element() }, exprs = { made } }
    end
    return method.update
end

-- The host value that an expression stands for, or nil when it is computed.
function static_of(inst, node)
    if node.tag == "Paren" then return static_of(inst, node.expr) end
    if node.tag == "Fixed" then return node.static end
    if node.tag ~= "Name" and node.tag ~= "Index" then return end
    local static = inst.statics[node]
    if static == nil then
        static = (node.tag == "Name" and static_name or static_index)(inst, node) or false
        inst.statics[node] = static
    end
    return static or nil
end
infer.static_of = static_of

-- The captured array or list of whose elements an indexing is one, and the node of the index: of
-- `list[i].x` they are the list of the x, and i. nil when it is another one.
local function source_of(inst, node)
    local base = static_of(inst, node.object)
    if base then return base, node.key end
    local row, field = node.object, node.key
    while row.tag == "Paren" do row = row.expr end
    local list = row.tag == "Index" and (field.tag == "String" or field.tag == "Number") and static_of(inst, row.object)
    if not list or list.nested or type(list.value) ~= "table" or infer.array_type(list.value) then return end
    local made, key = inst.columns[node], field.value
    if not made then
        local function read() return infer.column(list.read(), key) end
        made = { path = type(key) == "string" and ("%s[...].%s"):format(list.path, key) or ("%s[...][%.14g]"):format(list.path, key),
                 key = ("%s[].%s %s"):format(list.key, type(key), key), value = read(), read = read }
        inst.columns[node] = made
        if not made.value then
            refuse(inst, node, "not every element of '%s' is a plain table with a number '%s', or they do not count from 1 without holes", list.path,
                tostring(key))
        end
    end
    return made, row.key
end
infer.source_of = source_of

-- What is known of a local where it is named: as in flow.assigned. inst.flow is where the walk is;
-- answers are stored in the instance.
function infer.state_of(inst, node)
    if not inst.is_settled then inst.states[node] = inst.flow.assigned[variable_of(inst, node)] end
    return inst.states[node]
end

local NEVER_NIL = { Number = true, Wide = true, True = true, False = true, String = true, Unop = true, Binop = true, Function = true, Table = true }

-- Is an expression known to be nil (true), or known not to be (false)? nil when neither.
local function nil_of(inst, node)
    local tag = node.tag
    if tag == "Paren" then return nil_of(inst, node.expr) end
    if tag == "Nil" then return true end
    if NEVER_NIL[tag] then return false end
    if tag ~= "Name" and tag ~= "Index" and tag ~= "Fixed" then return end
    local static = static_of(inst, node)
    if static then
        if static.nested or static.value ~= nil then return false end
        bake(inst, static)
        return true
    end
    if tag == "Index" then return end -- reading it fails where there is no element
    local state = infer.state_of(inst, node)
    if state ~= nil then return state == "nil" end
end
infer.nil_of = nil_of

-- The result of type() for an expression without side effects; nil when it is not known.
local function type_of(inst, node)
    local tag = node.tag
    if tag == "Paren" then return type_of(inst, node.expr) end
    local is_nil = nil_of(inst, node)
    if is_nil then return "nil" end
    if tag == "Number" then return "number" end
    if tag == "Wide" then return "cdata" end
    if tag == "String" then return "string" end
    if tag == "True" or tag == "False" then return "boolean" end
    local static = static_of(inst, node)
    if static then
        if static.nested then return "function" end
        if type(static.value) ~= "number" then bake(inst, static) end
        return infer.array_type(static.value) and "table" or type(static.value)
    end
    local known = tag == "Name" and is_nil == false and inst.vars[variable_of(inst, node)]
    if known and known.kind then return known.kind == "bool" and "boolean" or WIDE[known.kind] and "cdata" or "number" end
end

local function is_type_call(inst, node)
    if node.tag ~= "Call" or #node.args ~= 1 or node.callee.tag ~= "Name" then return false end
    local static = static_of(inst, node.callee)
    return static ~= nil and static.value == type
end

-- The string that an expression is known to be; nil when it is not known.
local function string_of(inst, node)
    if node.tag == "String" then return node.value end
    local static = static_of(inst, node)
    if static and type(static.value) == "string" then return bake(inst, static).value end
end

-- Are the sides of `==` known to be equal (true), or known to differ (false)? nil when neither.
local function equality_of(inst, node)
    local left, right = node.left, node.right
    if is_type_call(inst, right) then left, right = right, left end
    if is_type_call(inst, left) and right.tag == "String" then
        local name = type_of(inst, left.args[1])
        if name then return name == right.value end
        return
    end
    local text, other = string_of(inst, left), string_of(inst, right)
    if text and other then return text == other end
    local a, b = nil_of(inst, left), nil_of(inst, right)
    if a == nil or b == nil then return end
    if a and b then return true end
    if a or b then return false end
end

-- The truth of an expression, if it is known when the function is translated; otherwise nil.
local function truth_of(inst, node)
    local tag = node.tag
    if tag == "Binop" and (node.op == "==" or node.op == "~=") then
        local equal = equality_of(inst, node)
        if equal ~= nil then return equal == (node.op == "==") end
    end
    if tag == "Binop" then return constants.compare(infer, inst, node) end
    if tag == "True" or tag == "Number" or tag == "Wide" or tag == "String" then return true end
    if tag == "False" or tag == "Nil" then return false end
    if tag == "Paren" then return truth_of(inst, node.expr) end
    if tag == "Unop" and node.op == "not" then
        local truth = truth_of(inst, node.expr)
        if truth ~= nil then return not truth end
    elseif tag == "And" or tag == "Or" then
        local left, right = truth_of(inst, node.left), truth_of(inst, node.right)
        if left == (tag == "Or") then return left end
        if left ~= nil then return right end
        if inst.program.tracks and right == (tag == "Or") and constants.is_pure(node.left) then return right end
    else
        local static = static_of(inst, node)
        if static and not static.nested and (type(static.value) == "boolean" or static.value == nil) then
            bake(inst, static)
            return static.value == true
        elseif static and (type(static.value) == "number" or wide.kind_of(static.value)) then
            return true
        end
        if not static and tag == "Name" and nil_of(inst, node) then return false end
    end
end
infer.truth_of = truth_of

-- truth_of for the walk that finds types: at this point of the flow, where more may be known of
-- locals.
local function truth_at(inst, node, flow)
    inst.flow = flow
    return truth_of(inst, node)
end

---------------------------------------------------------------------------------------------------
-- Types

local function join(a, b)
    if a == nil or a == b then return b end
    if b == nil then return a end
    if a == "k" and NUMERIC[b] then return b end
    if b == "k" and NUMERIC[a] then return a end
    if NUMERIC[a] and NUMERIC[b] then return "num" end
end

local function note(inst, node, kind, varies)
    if inst.types[node] ~= kind or inst.varies[node] ~= varies then
        inst.types[node], inst.varies[node] = kind, varies
        inst.changed = true
    end
    return kind, varies
end

-- What the text of a refusal calls a value of this kind.
local function shown(kind)
    return kind == "bool" and "boolean" or WIDE[kind] and "64-bit integer (" .. kind .. ")" or "number"
end

-- Widens a variable's kind by one more. `varies`: the value differs between lanes, or not all lanes
-- get it.
local function widen(inst, at, var, kind, varies)
    local known = inst.vars[var]
    local joined = join(known.kind, kind)
    if kind and not joined then
        refuse(inst, at, "'%s' is a %s here and a %s elsewhere; a variable has one type on a device%s", var.name, shown(kind), shown(known.kind),
            (WIDE[kind] or WIDE[known.kind]) and wide_rules.advice(kind, known.kind) or "")
    end
    if joined ~= known.kind or (varies and not known.varies) then
        known.kind, known.varies = joined, known.varies or varies
        inst.changed = true
    end
end

local function declare(inst, flow, var)
    local known = inst.vars[var]
    if not known then
        known = { varies = false }
        inst.vars[var] = known
    end
    known.level = flow.outer_level or flow.level
    known.loops = #inst.loops
    return known
end

local ASK = "nil does not exist on a device, return a number everywhere, or ask whether there is one (`if r then`, `r or 0`)"

-- Refuses the use of a local that holds a result which is missing on some paths.
local function refuse_missing(inst, node, var)
    if var.missing then refuse(inst, node, "%s is used, and %s; %s", var.name, var.missing, ASK) end
end

-- Refuses the use of a parameter that was given no value.
local function refuse_nil_name(inst, node)
    while node.tag == "Paren" do node = node.expr end
    local var = node.tag == "Name" and variable_of(inst, node)
    if not var or inst.states[node] ~= "nil" then return end
    refuse_missing(inst, node, var)
    if inst.is_parameter[var] then
        refuse(inst, node, "the parameter '%s' of '%s' gets no value%s: it would be nil, which does not exist on a device; pass a number", var.name,
            inst.name or "the function", inst.called_at and (" from the call in line %d"):format(inst.called_at) or ", since there are fewer inputs")
    end
    refuse(inst, node, "'%s' may be read before it has a value, and nil does not exist on a device; "
        .. "give it a number where it is declared (line %d)", var.name, var.line)
end

-- Checks a value that goes into a variable, a result or an argument; gives its kind.
local function storable(inst, at, kind, what)
    if kind == "nil" then refuse_nil_name(inst, at) end
    if MAYBE[kind] then
        refuse(inst, at, "%s would be a number or false; complete it: `condition and x or y`", what)
    elseif kind == "nil" then
        refuse(inst, at, "%s would be nil, which does not exist on a device; use a number such as 0 or math.huge", what)
    end
    return kind
end

local function numeric(inst, at, kind, what)
    if kind == "nil" then refuse_nil_name(inst, at) end
    if kind and not NUMERIC[kind] then
        refuse(inst, at, "%s needs numbers, and this is %s", what, kind == "bool" and "a boolean" or kind == "nil" and "nil"
            or WIDE[kind] and "a 64-bit integer; write tonumber(...)" or "a number or false")
    end
end

---------------------------------------------------------------------------------------------------
-- Flow. flow.assigned: the locals that have a value here (true, or which number it is, see
-- constants.lua), or certainly none ("nil");
-- flow.level: how many of the conditions and loops around this place differ between lanes;
-- flow.outer_level: the level of locals that are declared here and can be seen behind a label that
-- ends here; inst.loops: the loops around this place, outermost first; inst.labels: the labels that
-- a goto may jump to from here.

local function copy_assigned(assigned)
    local copy = {}
    for var, state in pairs(assigned) do copy[var] = state end
    return copy
end

-- What two paths have in common; nil stands for a path that does not reach this place.
local function meet(a, b)
    if not a or not b then return a or b end
    local both = {}
    for var, state in pairs(a) do
        local other = b[var]
        if other == state then both[var] = state elseif other and other ~= "nil" and state ~= "nil" then both[var] = true end
    end
    return both
end

-- Calls visit(part) for the parts of a node, which are of the text; not for what it refers to.
local function each_part(node, visit)
    for key, part in pairs(node) do
        if type(part) == "table" and key ~= "var" and key ~= "vars" and key ~= "def" and key ~= "assigns" and key ~= "static"
            and key ~= "source" then
            visit(part)
        end
    end
end

-- The locals that a statement assigns to.
local function assigned_in(node)
    if not node.assigns then
        node.assigns = {}
        local function visit(part)
            if part.tag == "Assign" then
                for _, target in ipairs(part.targets) do
                    if target.tag == "Name" and target.var then node.assigns[target.var] = true end
                end
            end
            each_part(part, visit)
        end
        visit(node)
    end
    return node.assigns
end

-- A local that is nil before a loop may have a value in the loop and after it, if the loop assigns
-- to it; one that is a known number may be another one.
local function enter_loop(node, flow)
    for var in pairs(assigned_in(node)) do
        local state = flow.assigned[var]
        if state == "nil" then flow.assigned[var] = nil elseif state then flow.assigned[var] = true end
    end
end

-- The state of a local that gets this value.
local function state_for(inst, flow, value)
    inst.flow = flow
    return (not value.index or value.index == 1) and constants.value(infer, inst, value.node, true) or true
end

-- Notes that the loop needs a mask of its own, since its lanes do not all leave it together.
local function masks(inst, node)
    if inst.simd and not inst.loop_varies[node] then
        inst.loop_varies[node] = true
        inst.changed = true
    end
end

-- Lanes leave the function here. If these are not all of its lanes, the loops around go on without
-- them.
local function leaves(inst, flow, varies)
    if varies or flow.level > 0 then
        for _, loop in ipairs(inst.loops) do masks(inst, loop.node) end
    end
end

local function fails(inst, flow, varies)
    inst.can_fail = true
    leaves(inst, flow, varies)
end

local expr, condition, block, call, values

---------------------------------------------------------------------------------------------------
-- Expressions: each function gives the kind, and whether the value varies between lanes.

local expression = {}

function expression.Number(_, node)
    local v = node.value
    return (v == math.floor(v) and math.abs(v) < 2 ^ 31 and (v ~= 0 or 1 / v > 0)) and "k" or "num", false
end
expression.Nil = function() return "nil", false end
expression.True = function() return "bool", false end
expression.False = expression.True
expression.Paren = function(inst, node, flow) return expr(inst, node.expr, flow) end

function expression.String(inst, node)
    refuse(inst, node, "a string; there are no strings on a device, except as messages of error and assert")
end
function expression.Wide(inst, node)
    if node.value == nil then refuse(inst, node, "the literal %s is an imaginary number, which does not exist on a device", node.text) end
    return wide.kind_of(node.value), false
end
function expression.Vararg(inst, node)
    refuse(inst, node, "'...'; there are no variable arguments on a device, name the parameters")
end
function expression.Table(inst, node)
    refuse(inst, node, "a table made inside the function; there is no memory to allocate on a device, use locals or "
        .. "capture a typed array (tidepool.array)")
end
function expression.Function(inst, node)
    refuse(inst, node, "a function as a value; give it a name with `local function` and call it")
end
local DIMENSIONS = { [2] = { "row", "column" }, [3] = { "plane", "row", "column" } }

-- Which element "a:at(y, x, border)" reads, for inst.places: { sizes = the captured numbers of the
-- dimensions; indexes, codes: the nodes of the indexes, and the failures of those that may be
-- wrong; modes = for each index "clamp", "wrap", "number" or false: it must be within the bounds;
-- border = the node of that number }. How many dimensions the array has is baked in; so is, where
-- that matters, whether it has no rows: then no row is the nearest one.
local function place_of(inst, node, flow)
    local base = static_of(inst, node.object)
    local path = base.path
    local function field(name)
        local function read() return base.read()[name] end
        return { path = path .. "." .. name, key = base.key .. "." .. name, value = read(), read = read }
    end
    local function dimensions() return base.read().columns == 0 and 1 or base.read().planes > 0 and 3 or 2 end
    local count = bake(inst, { path = path .. " (its dimensions)", key = base.key .. " dimensions", value = dimensions(), read = dimensions }).value
    if count == 1 then refuse(inst, node, "'%s' has no rows: %s:reshape(rows, columns) gives it some", path, path) end
    local names, border = DIMENSIONS[count], node.args[count + 1]
    if #node.args < count or #node.args > count + 1 then
        refuse(inst, node, "'%s:at' with %d argument%s; it takes (%s, border)", path, #node.args, #node.args == 1 and "" or "s",
            table.concat(names, ", "))
    end
    local rows, columns, planes = field "rows", field "columns", field "planes"
    local made = { sizes = count == 3 and { planes, rows, columns } or { rows, columns }, indexes = node.args, codes = {}, modes = {} }
    local mode = false
    if border and nil_of(inst, border) ~= true then
        local text = string_of(inst, border)
        if text and text ~= "clamp" and text ~= "wrap" then
            refuse(inst, border, "\"%s\"; what is beyond the border is \"clamp\", \"wrap\" or a number", text)
        end
        mode, made.border = text or "number", not text and border or nil
    end
    local has_none = false
    if mode == "clamp" or mode == "wrap" then
        local function is_empty() return base.read().rows == 0 end
        has_none = bake(inst, { path = path .. " (whether it has rows)", key = base.key .. " is empty", value = is_empty(), read = is_empty }).value
    end
    for i, size in ipairs(made.sizes) do
        inst:capture("number", size)
        made.sizes[i] = inst.captured["number" .. size.key]
    end
    local where = ("%s:%d: array:at: "):format((node.source or inst.fn.source).file, node.line)
    for i, name in ipairs(names) do
        local kind, varies = expr(inst, node.args[i], flow)
        numeric(inst, node.args[i], kind, "an index")
        made.varies = made.varies or varies
        local has_border = mode and not (has_none and name == "row")
        made.modes[i] = has_border and mode
        if not has_border or kind == "num" then
            local pieces = { where .. (has_border and name or "there is no " .. name) .. " ", { format = "%.14g" } }
            pieces.numbers = { pieces[2] }
            if has_border then
                pieces[3] = " is not a whole number"
            else
                pieces[3] = " in "
                if count == 3 then
                    pieces[#pieces + 1] = { format = "%d", static = planes }
                    pieces[#pieces + 1] = " planes of "
                end
                pieces[#pieces + 1] = { format = "%d", static = rows }
                pieces[#pieces + 1] = " rows of "
                pieces[#pieces + 1] = { format = "%d", static = columns }
                pieces[#pieces + 1] = " columns"
            end
            made.codes[i] = inst:failure("message", node, ("%s of '%s' %s"):format(name, base.key, has_border and mode or ""))
            inst.program.failures[made.codes[i]].pieces = pieces
            fails(inst, flow, varies)
        end
    end
    return made, base
end

-- An element of a matrix: a:at(y, x, border).
local function matrix_element(inst, node, flow)
    local made, base = place_of(inst, node, flow)
    local ctype = infer.array_type(base.value)
    local kind = ARRAY_TYPES[ctype]
    inst:capture("array", base)
    made.array, made.kind = inst.captured["array" .. base.key], kind
    if made.border then
        local border, varies = expr(inst, made.border, flow)
        if WIDE[kind] and border ~= kind or WIDE[border] and kind ~= border then
            refuse(inst, made.border, "what is beyond the border is %s, and an element of '%s' is %s; a value has one type on a device%s",
                "a " .. shown(border), base.path, "a " .. shown(kind), wide_rules.advice(kind, border))
        end
        if not WIDE[border] then numeric(inst, made.border, border, "what is beyond the border") end
        kind, made.varies = join(kind, border) or "num", made.varies or varies
    end
    inst.places[node] = made
    return kind, made.varies or false
end

-- What is written on a device in the place of a method of arrays.
local function instead_of(name, path, has_planes)
    if name == "row" or name == "plane" then return ("write %s:at(%srow, column)"):format(path, has_planes and "plane, " or "") end
    if name ~= "set" then return ("arrays have the methods at, add, max and min; call '%s:%s' before the map"):format(path, name) end
    return ("write %s[%s * %s.columns + column] = value"):format(path,
        has_planes and ("((plane - 1) * %s.rows + row - 1)"):format(path) or "(row - 1)", path)
end

function expression.Method(inst, node, flow)
    local static = static_of(inst, node.object)
    if static and not static.nested and infer.array_type(static.value) then
        if node.name == "at" then return matrix_element(inst, node, flow) end
        if UPDATES[node.name] then
            refuse(inst, node, "what '%s:%s' gives; on a device it is a statement that gives nothing", static.path, node.name)
        end
        refuse(inst, node, "the method '%s:%s'; on a device %s", static.path, node.name,
            instead_of(node.name, static.path, static.value.planes > 0))
    end
    refuse(inst, node, "the method call ':%s'; there are no objects on a device, call a plain function", node.name)
end

-- A captured value used as an operand.
local function captured(inst, node, static)
    local value = static.value
    local kind = type(value)
    if static.nested or kind == "function" then
        refuse(inst, node, "the function '%s' as a value; functions can only be called", static.path)
    elseif kind == "number" then
        inst:capture("number", static)
        return "num", false
    elseif wide.kind_of(value) then
        inst:capture("number", static)
        return wide.kind_of(value), false
    elseif kind == "boolean" then
        bake(inst, static)
        return "bool", false
    elseif kind == "nil" then
        bake(inst, static)
        return "nil", false
    elseif infer.array_type(value) then
        refuse(inst, node, "the array '%s' as a value; take an element, %s[i], or its length, #%s", static.path, static.path,
            static.path)
    elseif kind == "string" then
        refuse(inst, node, "'%s' is a string; there are no strings on a device", static.path)
    end
    refuse(inst, node, "'%s' is a %s; only numbers, booleans, functions and typed arrays can be captured", static.path, kind)
end

function expression.Name(inst, node, flow)
    local static = static_of(inst, node)
    if static then return captured(inst, node, static) end
    local var = variable_of(inst, node)
    local known = inst.vars[var]
    if not known then
        refuse(inst, node, "'%s' belongs to an enclosing function and is not visible here; pass it as an argument", var.name)
    end
    inst.states[node] = flow.assigned[var]
    if flow.assigned[var] == "nil" then return "nil", false end
    if not flow.assigned[var] then
        refuse_missing(inst, node, var)
        refuse(inst, node, "'%s' may be read before it has a value, and nil does not exist on a device; "
            .. "give it a number where it is declared (line %d)", var.name, var.line)
    end
    return known.kind, known.varies
end

-- Advice on how to make a typed array of a value that is indexed as if it were one.
local function array_advice(static)
    local value, path = static.value, static.path
    if static.nested or type(value) == "function" then return "call it, or capture a typed array" end
    if type(value) == "cdata" then
        return ("copy it into a typed array, whose elements count from 1: local a = tidepool.array(\"double\", n) "
            .. "for i = 1, n do a[i] = %s[i - 1] end"):format(path)
    end
    if type(value) ~= "table" then return "capture a typed array: tidepool.array(\"double\", n)" end
    if debug.getmetatable(value) ~= nil then return "it has a metatable, which does not exist on a device; capture a plain list or a typed array" end
    local first = value[1]
    if first ~= nil and type(first) ~= "number" and not wide.kind_of(first) then
        return ("its elements are %ss, and only numbers have arrays there"):format(type(first))
    elseif first ~= nil then
        return "its numbers do not count from 1 without holes, or there are others beside them"
    end
    return ("capture a typed array instead: tidepool.array(\"double\", %s)"):format(path)
end

-- An element of a captured array, which may be stored to (`is_written`).
local function element(inst, node, flow, is_written)
    local base, key = source_of(inst, node)
    if not base then
        expr(inst, node.object, flow)
        refuse(inst, node, "an index into a number; only captured typed arrays and lists have elements")
    end
    local ctype = not base.nested and (infer.array_type(base.value) or infer.list_type(base.value))
    if not ctype then
        refuse(inst, node, "'%s' is a %s, indexed with something computed here; %s", base.path, base.nested and "function" or type(base.value),
            array_advice(base))
    end
    local kind = ARRAY_TYPES[ctype]
    inst:capture("array", base)
    if is_written then
        inst.captured["array" .. base.key].is_written = true
        inst.stores[node] = true
    end
    local index, varies = expr(inst, key, flow)
    numeric(inst, node, index, "an index")
    inst.codes[node] = inst:failure("index", node, ("index of '%s'"):format(base.path), inst.captured["array" .. base.key])
    fails(inst, flow, varies)
    return kind, varies
end

function expression.Fixed(inst, node) return captured(inst, node, node.static) end

-- An element of a room. Its index is in range: lower/places.lua has seen to it.
function expression.Cell(inst, node, flow)
    numeric(inst, node.index, (expr(inst, node.index, flow)), "an index")
    local known = inst.vars[node.var]
    return known.kind, known.varies
end

function expression.Index(inst, node, flow)
    local static = static_of(inst, node)
    if static then return captured(inst, node, static) end
    return element(inst, node, flow)
end

local function is_small(node)
    return node.tag == "Number" and node.value == math.floor(node.value) and math.abs(node.value) <= 1024
end

local COMPARE = { ["<"] = true, [">"] = true, ["<="] = true, [">="] = true }

function expression.Binop(inst, node, flow)
    local op = node.op
    if op == ".." then refuse(inst, node, "'..'; there are no strings on a device, return numbers") end
    if truth_at(inst, node, flow) ~= nil then return "bool", false end
    local a, a_varies = expr(inst, node.left, flow)
    local b, b_varies = expr(inst, node.right, flow)
    local varies = a_varies or b_varies
    if op == "==" or op == "~=" then
        if MAYBE[a] or MAYBE[b] then
            refuse(inst, node, "a comparison with a number or false; complete it: `condition and x or y`")
        end
        return "bool", varies
    end
    local what = COMPARE[op] and ("the comparison '%s'"):format(op) or ("'%s'"):format(op)
    if not WIDE[a] then numeric(inst, node.left, a, what) end
    if not WIDE[b] then numeric(inst, node.right, b, what) end
    if COMPARE[op] then return "bool", varies end
    if WIDE[a] or WIDE[b] then return wide.joined(a, b), varies end
    -- A loop counter, or an index of a grid, plus or minus another one or a small number stays an
    -- integer, which is exact, and cheap as an index.
    if (op == "+" or op == "-") and a == "long" and (b == "long" or is_small(node.right)) then return "long", varies end
    if op == "+" and b == "long" and is_small(node.left) then return "long", varies end
    return "num", varies
end

function expression.Unop(inst, node, flow)
    if node.op == "not" then
        return "bool", (condition(inst, node.expr, flow))
    elseif node.op == "#" then
        local static = static_of(inst, node.expr)
        local is_array = static and not static.nested and infer.array_type(static.value)
        if static and not static.nested and type(static.value) == "table" and not is_array and debug.getmetatable(static.value) == nil then
            local function read()
                local value = static.read()
                return type(value) == "table" and #value or nil
            end
            local length = { path = "#" .. static.path, key = "#" .. static.key, value = read(), read = read }
            inst.lengths[node] = length
            inst:capture("number", length)
            return "num", false
        elseif not is_array then
            refuse(inst, node, "'#'; only captured typed arrays and lists have a length")
        end
        inst:capture("array", static)
        return "long", false
    end
    local kind, varies = expr(inst, node.expr, flow)
    if WIDE[kind] then return kind, varies end
    numeric(inst, node, kind, "'-'")
    local literal = node.expr.tag == "Number" and node.expr.value
    return (kind == "k" and literal and literal ~= 0) and "k" or "num", varies
end

-- The right operand of `and` or `or`, which only the lanes that need it evaluate.
local function lazily(inst, node, flow, left_varies)
    flow.level = flow.level + (left_varies and 1 or 0)
    local kind, varies = expr(inst, node, flow)
    flow.level = flow.level - (left_varies and 1 or 0)
    return kind, varies
end

function expression.And(inst, node, flow)
    local truth = truth_at(inst, node.left, flow)
    if truth ~= nil then return expr(inst, truth and node.right or node.left, flow) end
    local varies, always = condition(inst, node.left, flow)
    local kind, right_varies = lazily(inst, node.right, flow, varies)
    varies = varies or right_varies
    if always then return kind, varies end
    if kind == "nil" then refuse(inst, node, "'and' with nil gives false or nil; write a condition with `not`") end
    if kind == "bool" or kind == nil or MAYBE[kind] then return kind, varies end
    return wide.maybe(kind), varies
end

function expression.Or(inst, node, flow)
    local truth = truth_at(inst, node.left, flow)
    if truth ~= nil then return expr(inst, truth and node.left or node.right, flow) end
    local left, left_varies = expr(inst, node.left, flow)
    if NUMERIC[left] or WIDE[left] or truth_at(inst, node.right, flow) == false then return left, left_varies end
    local right, right_varies = lazily(inst, node.right, flow, left_varies)
    local varies = left_varies or right_varies
    if left == nil or right == nil then return right, varies end
    if left == "bool" and right == "bool" then return "bool", varies end
    if left == "nil" then return right, varies end
    if left == "maybe" and NUMERIC[right] then return "num", varies end
    if MAYBE[left] and (right == left or right == MAYBE[left]) then return right, varies end
    if MAYBE[left] and right ~= "bool" then
        local one, other = MAYBE[left], MAYBE[right] or right
        refuse(inst, node, "'or' gives a %s or a %s here; a value has one type on a device%s", shown(one), shown(other),
            wide_rules.advice(one, other))
    end
    refuse(inst, node, "'or' gives a boolean or a number here; a value has one type on a device, "
        .. "write `condition and x or y` with two numbers")
end

function expression.Call(inst, node, flow)
    node.wants_value = true
    local results = call(inst, node, flow)
    if inst.calls[node].never_returns then return "k", false end
    if not results[1] then refuse(inst, node, "a call that returns nothing, used as a value") end
    if results[1].missing then
        refuse(inst, node, "the result of this call is used, and %s; %s", results[1].missing, ASK)
    end
    return results[1].kind, results[1].varies
end

function expr(inst, node, flow)
    inst.flow = flow
    return note(inst, node, expression[node.tag](inst, node, flow))
end

-- An expression of which only the truth is wanted. Gives whether it varies, and whether it is
-- always true (as any number is).
function condition(inst, node, flow)
    if node.tag == "Paren" then return condition(inst, node.expr, flow) end
    if truth_at(inst, node, flow) == nil and (node.tag == "And" or node.tag == "Or") then
        local left = truth_of(inst, node.left)
        if left ~= nil then return condition(inst, node.right, flow) end
        local a = condition(inst, node.left, flow)
        flow.level = flow.level + (a and 1 or 0)
        local b = condition(inst, node.right, flow)
        flow.level = flow.level - (a and 1 or 0)
        note(inst, node, "bool", a or b)
        return a or b, false
    end
    local kind, varies = expr(inst, node, flow)
    return varies, NUMERIC[kind] or WIDE[kind] or false
end

---------------------------------------------------------------------------------------------------
-- Calls

-- What a node of a message is: "text", which message_pieces takes apart, or "number", which is
-- computed; nil: neither. Also the node without parentheses.
local function message_part(inst, node)
    while node.tag == "Paren" do node = node.expr end
    local tag = node.tag
    if tag == "Binop" and node.op == ".." or tag == "Method" and node.name == "format" or string_of(inst, node) then return "text", node end
    local callee = tag == "Call" and static_of(inst, node.callee)
    if callee and (callee.value == tostring or callee.value == string.format) then return "text", node end
    local static = static_of(inst, node)
    if tag == "Table" or tag == "Function" or static and type(static.value) ~= "number" then return nil, node end
    -- a choice of texts is neither
    local is_choice = tag == "And" or tag == "Or"
    if is_choice and (message_part(inst, node.left) == "text" or message_part(inst, node.right) ~= "number") then return nil, node end
    return "number", node
end

-- Takes the message of error or assert apart: strings, and numbers with their format: { format =,
-- static = }, a captured one, and { format =, node =, is_boolean = }, which are computed on the
-- device and are also in pieces.numbers. `what`: whose message it is.
local function message_pieces(inst, node, flow, what, pieces)
    local function refuse_message(at, why)
        refuse(inst, at, "the message of %s %s; it is made of texts that are known beforehand and of numbers, by .., tostring and string.format",
            what, why)
    end
    local function add_number(at, format)
        while at.tag == "Paren" do at = at.expr end
        local static = static_of(inst, at)
        if at.tag == "Number" then
            pieces[#pieces + 1] = format:format(at.value)
            return
        elseif static and type(static.value) == "number" then
            pieces[#pieces + 1] = { format = format, static = static }
            return
        end
        local kind = expr(inst, at, flow)
        local is_boolean = kind == "bool" and format:find "s$" ~= nil
        if not is_boolean then numeric(inst, at, kind, "a number in a message") end
        local numbers = pieces.numbers
        if #numbers == NUMBERS_MAX then
            refuse(inst, at, "the message of %s has more than %d numbers that are computed here; leave some out", what, NUMBERS_MAX)
        end
        local piece = { node = at, format = format, is_boolean = is_boolean }
        numbers[#numbers + 1], pieces[#pieces + 1] = piece, piece
    end
    local part
    part, node = message_part(inst, node)
    if part == "number" then return add_number(node, "%.14g") end
    local text = string_of(inst, node)
    local callee = node.tag == "Call" and static_of(inst, node.callee)
    local is_method = node.tag == "Method"
    if text then
        pieces[#pieces + 1] = text
    elseif not part then
        refuse_message(node, "is no text that a device has")
    elseif node.tag == "Binop" then
        message_pieces(inst, node.left, flow, what, pieces)
        message_pieces(inst, node.right, flow, what, pieces)
    elseif callee and callee.value == tostring then
        if #node.args ~= 1 then refuse_message(node, "calls tostring without a value") end
        if message_part(inst, node.args[1]) == "text" then return message_pieces(inst, node.args[1], flow, what, pieces) end
        add_number(node.args[1], "%s")
    else
        local template = node.object or node.args[1]
        while template and template.tag == "Paren" do template = template.expr end
        local format, used = template and string_of(inst, template), is_method and 0 or 1
        if not format then refuse_message(node, "has a format that is not known beforehand") end
        local at = 1
        while at <= #format do
            local plain = format:match("^[^%%]+", at) or format:match("^%%%%", at)
            if plain then
                pieces[#pieces + 1] = plain == "%%" and "%" or plain
            else
                plain = format:match("^%%[-+ #0]*%d?%d?%.?%d?%d?[diuoxXeEfgGsq]", at)
                used = used + 1
                if not plain then refuse_message(node, ("has the conversion '%s'"):format(format:match("^%%[^%a]*.?", at))) end
                local value = node.args[used]
                if not value then refuse_message(node, ("has no value for '%s'"):format(plain)) end
                local string = plain:find "[sq]$" and string_of(inst, value)
                if string then
                    pieces[#pieces + 1] = plain:format(string)
                elseif plain == "%s" and message_part(inst, value) == "text" then
                    message_pieces(inst, value, flow, what, pieces)
                else
                    while value.tag == "Paren" do value = value.expr end
                    local inner = value.tag == "Call" and plain:find "s$" and static_of(inst, value.callee)
                    add_number(inner and inner.value == tostring and value.args[1] or value, plain)
                end
            end
            at = at + #plain
        end
    end
end

-- The failure of an error or assert: its number, and the nodes of the numbers in its message.
local function message_failure(inst, at, node, flow, what, prefix)
    local pieces = { prefix, numbers = {} }
    message_pieces(inst, node, flow, what, pieces)
    local text, dynamic, nodes = {}, false, {}
    for i, piece in ipairs(pieces) do
        dynamic = dynamic or type(piece) == "table"
        text[i] = type(piece) == "table"
            and piece.format .. tostring(piece.static and piece.static.key or piece.node.line) .. tostring(piece.is_boolean) or piece
        if not dynamic and piece:find "%z" then refuse(inst, at, "the message of %s has a byte 0", what) end
    end
    for d, piece in ipairs(pieces.numbers) do nodes[d] = piece.node end
    local code = inst:failure(dynamic and "message" or "error", at, table.concat(text))
    if dynamic then inst.program.failures[code].pieces = pieces end
    return code, nodes
end

local function place_in_text(inst, node) return ("%s:%d: "):format((node.source or inst.fn.source).file, node.line) end

-- Where error(message, level) says that it was raised. Nothing calls the function that is mapped,
-- and of others the place of the call is known if it is no tail call.
local function place_of_error(inst, node, level)
    local count = level and level.value or 1
    if count == 0 then return "" end
    -- `return error(...)` takes the place of the function itself
    if node.is_tail then count = count + 1 end
    if count == 1 then return place_in_text(inst, node) end
    local place = node.caller_place or (inst.called_at and inst.caller_place or not inst.called_at and "")
    if not place or place ~= "" and count > 2 then
        refuse(inst, level or node, "error at this level, of which the place is not known here; use 0, 1, or 2 in a function that is not called by "
            .. "`return %s(...)`", inst.name or "f")
    end
    return place
end

local function call_error(inst, node, flow)
    local text, level = node.args[1], node.args[2]
    if not text or text.tag == "Nil" then
        refuse(inst, node, "error without a message; give it a string")
    end
    if level and not (level.tag == "Number" and level.value >= 0 and level.value == math.floor(level.value)) then
        refuse(inst, level, "error at a level that is computed; write 0, 1 or 2")
    end
    local prefix = place_of_error(inst, node, level)
    local code, numbers = message_failure(inst, node, text, flow, "error", prefix)
    inst.calls[node] = { special = "error", code = code, numbers = numbers, never_returns = true }
    fails(inst, flow, false)
    return {}
end

local function call_assert(inst, node, flow)
    local cond = node.args[1]
    if not cond then refuse(inst, node, "assert needs an argument") end
    local kind, varies
    if node.wants_value then
        kind, varies = expr(inst, cond, flow)
        if kind == "nil" then storable(inst, cond, kind, "what assert gives") end
    else
        varies = condition(inst, cond, flow)
    end
    local prefix = ASSERT_TELLS_LINE and place_in_text(inst, node) or ""
    local text = node.args[2] or { tag = "String", line = node.line, value = "assertion failed!" }
    local code, numbers = message_failure(inst, node, text, flow, "assert", prefix)
    inst.calls[node] = { special = "assert", code = code, numbers = numbers }
    fails(inst, flow, varies)
    if not node.wants_value then return {} end
    local results = { { kind = MAYBE[kind] or kind, varies = varies } }
    if node.args[2] then
        results[2] = { kind = "num", varies = false, missing = "assert gives its message, too, where it is not in parentheses: (assert(...))" }
    end
    return results
end

local function call_tonumber(inst, node, flow)
    local arg = node.args[1]
    if #node.args ~= 1 then refuse(inst, node, "tonumber with a base; there are no strings on a device") end
    inst.calls[node] = { special = "tonumber" }
    local kind, varies = expr(inst, arg, flow)
    if WIDE[kind] then return { { kind = "num", varies = varies } } end
    numeric(inst, arg, kind, "tonumber")
    return { { kind = kind, varies = varies } }
end

-- What makes a 64-bit integer: int64_t(x), where that is a ctype, ffi.new(type, x) and
-- ffi.cast(type, x). `kind`: of a ctype that is called.
local function call_wide(inst, node, flow, path, kind)
    local value = kind and node.args[1] or node.args[2]
    if not kind then
        local of, static = node.args[1], node.args[1] and static_of(inst, node.args[1])
        kind = of and wide.kind_of_type(string_of(inst, of) or static and static.value)
        if static and type(static.value) ~= "string" then bake(inst, static) end
        if not kind then refuse(inst, node, "%s of another type than int64_t and uint64_t; those are what numbers become on a device", path) end
    end
    local varies = false
    if value then
        local given
        given, varies = expr(inst, value, flow)
        if not WIDE[given] then numeric(inst, value, given, path) end
    end
    if #node.args > (value == node.args[1] and 1 or 2) then refuse(inst, node, "%s of more than one value", path) end
    inst.calls[node] = { special = "wide", kind = kind, value = value }
    return { { kind = kind, varies = varies } }
end

-- math.random. Each lane has a stream of its own, so what is drawn differs between lanes, and an
-- instance in which nothing differs cannot draw: see infer.program.
local function call_random(inst, node, flow)
    for _, value in ipairs(values(inst, node.args, flow)) do
        storable(inst, value.node, value.kind, "an argument of math.random")
        numeric(inst, value.node, value.kind, "math.random")
    end
    inst.calls[node] = { special = "random" }
    inst.draws = true
    inst.program.is_scalar_draw = inst.program.is_scalar_draw or not inst.simd
    return { { kind = "num", varies = inst.simd } }
end

local SPECIAL = { error = call_error, assert = call_assert, tonumber = call_tonumber, random = call_random, wide = call_wide }

-- Refuses the use of a result that some path of the function does not return.
local function check_given(inst, value)
    if not value.missing then return end
    refuse(inst, value.node, "result %d of this call is used, and %s; %s", value.index or 1, value.missing, ASK)
end

local function call_builtin(inst, node, flow, builtin, path)
    if builtin.refuse then refuse(inst, node, "%s does not exist here: %s", path, builtin.refuse) end
    local given, varies = not builtin.special and values(inst, node.args, flow) or node.args, false
    if #given < builtin.min then
        refuse(inst, node, "%s needs %d argument%s", path, builtin.min, builtin.min == 1 and "" or "s")
    end
    if builtin.special then return SPECIAL[builtin.special](inst, node, flow, path) end
    for _, value in ipairs(given) do
        check_given(inst, value)
        storable(inst, value.node, value.kind, "an argument of " .. path)
        if not (builtin.takes_wide and WIDE[value.kind]) then numeric(inst, value.node, value.kind, path) end
        varies = varies or value.varies
    end
    local kind_of_all = builtin.wide and wide_rules.kind_of_call(builtin, given)
    inst.calls[node] = { builtin = builtin, varies = varies, wide = kind_of_all }
    local results = {}
    for i, kind in ipairs(builtin.results) do results[i] = { kind = kind_of_all or kind, varies = varies } end
    return results
end

-- Lists the locals of enclosing functions that a nested one reads, also through nested ones that it
-- calls. `fn`: the function value whose text it is in.
local function nested_captures(fn, def, list, seen)
    for _, node in ipairs(seen[def] and {} or def.names) do
        local var = node.var
        if not fn.outside[var.def] and not seen[var] then
            seen[var] = true
            if var.bound and not var.assigned then
                seen[def] = true
                nested_captures(fn, var.bound, list, seen)
            else
                list[#list + 1] = node
            end
        end
    end
    return list
end

-- Are two expressions of the function the same text, with the same variables?
local function is_same(inst, a, b)
    while a.tag == "Paren" do a = a.expr end
    while b.tag == "Paren" do b = b.expr end
    if a.tag ~= b.tag then return false end
    if a.tag == "Name" then return a.var == b.var and a.name == b.name end
    if a.tag == "Fixed" then return a.static.key == b.static.key end
    if a.tag == "Number" or a.tag == "String" then return a.value == b.value end
    if a.tag == "Wide" then return a.text == b.text end
    if a.tag == "Binop" then return a.op == b.op and is_same(inst, a.left, b.left) and is_same(inst, a.right, b.right) end
    if a.tag == "Unop" then return a.op == b.op and is_same(inst, a.expr, b.expr) end
    if a.tag == "Index" then return is_same(inst, a.object, b.object) and is_same(inst, a.key, b.key) end
    if a.tag ~= "Call" or #a.args ~= #b.args or not is_same(inst, a.callee, b.callee) then return false end
    for i, arg in ipairs(a.args) do
        if not is_same(inst, arg, b.args[i]) then return false end
    end
    return true
end

local ARITHMETIC = { ["+"] = true, ["-"] = true, ["*"] = true, ["/"] = true, ["%"] = true, ["^"] = true }

-- If the value assigned to an element depends on that element, as in `a[k] = a[k] + v`, describes
-- the update, which must be atomic; else nil. `reads`: the nodes that read the element; `path`: the
-- nodes that contain one; `is_simple`: those are only operators and library functions, so that
-- everything else can be evaluated before.
local function update_of(inst, target, value)
    local key = static_of(inst, target.object).key
    local update = { reads = {}, path = {}, is_simple = true }
    local function visit(node)
        local tag = node.tag
        if tag == "Index" and not static_of(inst, node) then
            local static = static_of(inst, node.object)
            if static and static.key == key and is_same(inst, node.key, target.key) then
                update.reads[node], update.path[node] = true, true
                return true
            end
        end
        local found = false
        local children = tag == "Call" and node.args or tag == "Index" and { node.key, node.object } or { node.left or node.expr, node.right }
        for _, child in ipairs(children) do found = visit(child) or found end
        if not found then return false end
        update.path[node] = true
        local made = tag == "Call" and inst.calls[node]
        local is_simple = tag == "Paren" or (tag == "Unop" and node.op == "-") or (tag == "Binop" and ARITHMETIC[node.op])
            or (made and ((made.builtin and not made.builtin.results[2]) or made.special == "tonumber" or made.special == "wide"))
        update.is_simple = update.is_simple and is_simple and true or false
        return true
    end
    return visit(value) and update or nil
end

local function is_within(def, outer)
    while def do
        if def == outer then return true end
        def = def.outer
    end
    return false
end

-- Does the function call error with level 2 or more, or instead of returning? Then where it is
-- called makes a difference.
local function tells_caller(fn, def)
    if def.tells_caller == nil then
        def.tells_caller = false
        local function visit(node)
            local level = node.tag == "Call" and (node.args[2] and node.args[2].value or 1) + (node.is_tail and 1 or 0)
            if level and level >= 2 and node.callee.tag == "Name"
                and (not node.callee.var or fn.outside[node.callee.var.def])
                and infer.static_outside(fn, node.callee.name).value == error then
                def.tells_caller = true
            end
            each_part(node, visit)
        end
        visit(def.body)
    end
    return def.tells_caller
end

-- A call of a function that calls itself, beyond its last level.
local function call_too_deep(inst, node, flow, static)
    local limit = inst.program.recursion_limit
    local code = inst:failure("error", node, ("%s'%s' calls itself more than %d deep (recursion_limit = %d)"):format(place_in_text(inst, node),
        static.path, limit, limit))
    inst.calls[node] = { special = "error", code = code, numbers = {}, never_returns = true }
    fails(inst, flow, false)
    return {}
end

local function call_function(inst, node, flow, static)
    local program = inst.program
    local fn, def, outer
    if static.nested then
        fn, def, outer = static.inst.fn, static.nested, static.inst
    else
        fn = function_of(program, static.value, static.path, { inst = inst, at = node })
        def = fn.def
        bake(inst, static)
    end
    if def.is_vararg then refuse(inst, node, "'%s' takes variable arguments ('...'); name its parameters", static.path) end
    local mode, written = recursion.mode(program, fn, def), def
    def = recursion.form(infer, program, fn, def)
    local given = values(inst, node.args, flow, def.params)
    for i = 1, def == written and 0 or #def.params do
        -- a loop cannot give a parameter its first value
        if not given[i] or given[i].kind == "nil" then def = written end
    end
    local level = recursion.level(program, inst, mode)
    if level > 0 and level == program.recursion_limit then return call_too_deep(inst, node, flow, static) end
    local inputs, key, simd = {}, { tostring(def), tostring(fn.value), tostring(outer), level > 0 and level or nil }, program.is_simd
    for i, value in ipairs(given) do
        local var = def.params[i]
        if value.static then
            key[#key + 1] = value.static.key .. tostring(value.static.value or value.static.nested)
            if value.static.value then bake(inst, value.static) end
            inputs[#inputs + 1] = { var = var, static = value.static }
        elseif var and value.kind == "nil" then
            check_given(inst, value)
            key[#key + 1] = "nil"
        elseif var then
            check_given(inst, value)
            local kind = storable(inst, value.node, value.kind, "an argument of " .. static.path)
            kind = kind == "k" and "num" or kind
            simd = simd or value.varies
            inst.flow = flow
            local constant = mode and mode.kind == "known" and NUMERIC[kind] and (not value.index or value.index == 1)
                and constants.value(infer, inst, value.node, true) or nil
            key[#key + 1] = (kind or "?") .. (value.varies and "*" or "") .. (constant and "=" .. constant or "")
            inputs[#inputs + 1] = { var = var, kind = kind, varies = value.varies, value = i, constant = constant }
        end
    end
    -- Locals of enclosing functions that nested functions read are passed to them, and to functions
    -- to which these are passed.
    local passed, without = {}, {}
    local function pass_captures(of)
        for _, name in ipairs(nested_captures(of.inst.fn, of.nested, {}, {})) do
            local var = name.var
            if not passed[var] and not is_within(var.def, def) and inst.vars[var] and not inst.vars[var].static then
                passed[var] = true
                local kind, varies = expr(inst, name, flow)
                kind = kind == "k" and "num" or kind
                simd = simd or varies
                key[#key + 1] = var.name .. (kind or "?") .. (varies and "*" or "")
                if kind == "nil" then
                    without[#without + 1] = var
                else
                    inputs[#inputs + 1] = { var = var, kind = kind, varies = varies, name = name }
                end
            end
        end
    end
    local caller_place
    if tells_caller(fn, def) then
        caller_place = node.caller_place or not node.is_tail and place_in_text(inst, node) or not inst.called_at and "" or nil
        key[#key + 1] = "from " .. (caller_place or "?")
    end
    if static.nested then pass_captures(static) end
    for _, value in ipairs(given) do
        if value.static and value.static.nested then pass_captures(value.static) end
    end
    local callee = program:instance(inst, node, {
        key = table.concat(key, " "), fn = fn, def = def, name = static.path, inputs = inputs, simd = simd, outer = outer, without = without,
        caller_place = caller_place, text = recursion.text(fn, written), written = written, recursion_level = level,
    })
    inst.calls[node] = { callee = callee, inputs = inputs, never_returns = callee.never_returns }
    if callee.can_fail then fails(inst, flow, callee.simd) end
    inst.draws = inst.draws or callee.draws
    for _, each in ipairs(callee.captures) do inst:capture(each.kind, each.static) end
    local results = {}
    for i, result in ipairs(callee.results or {}) do results[i] = { kind = result.kind, varies = callee.simd, missing = result.missing } end
    return results
end

-- Gives the list of a call's results.
function call(inst, node, flow)
    local static = static_of(inst, node.callee)
    if not static then
        if node.callee.tag == "Function" or node.callee.tag == "Paren" then expr(inst, node.callee, flow) end
        refuse(inst, node, "a call of something that is computed; only functions with a name can be called")
    end
    if static.nested then return call_function(inst, node, flow, static) end
    local made_by_type = wide.kind_of_type(type(static.value) == "cdata" and static.value)
    if made_by_type then
        bake(inst, static)
        return call_wide(inst, node, flow, static.path, made_by_type)
    end
    if type(static.value) ~= "function" then
        refuse(inst, node, "a call of '%s', which is %s", static.path,
            static.value == nil and "nil" or "a " .. type(static.value))
    end
    local builtin = builtins.find(static.value)
    if builtin then
        bake(inst, static)
        return call_builtin(inst, node, flow, builtin, static.path)
    end
    if not debug.getinfo(static.value, "S").what:find "Lua" then
        refuse(inst, node, "a call of '%s', a C function that does not exist on a device; write it in Lua", static.path)
    end
    return call_function(inst, node, flow, static)
end

-- The values of an expression list, with all results of a call at its end: { node, kind, varies,
-- index }. `params`: the parameters that they are arguments for; functions and arrays may be passed
-- on unchanged.
function values(inst, exprs, flow, params)
    local list = {}
    for i, node in ipairs(exprs) do
        local static = params and params[i] and not params[i].assigned and static_of(inst, node)
        if params and params[i] and not params[i].assigned and node.tag == "Function" then
            static = { nested = node.def, path = params[i].name, key = tostring(node.def), inst = inst }
        end
        local is_object = static and (static.nested or type(static.value) == "function" or type(static.value) == "table"
            or type(static.value) == "userdata" or type(static.value) == "cdata" and not wide.kind_of(static.value))
        if is_object then
            list[#list + 1] = { node = node, static = static }
        elseif node.tag == "Call" and i == #exprs then
            node.wants_value = true
            local results = call(inst, node, flow)
            if inst.calls[node].never_returns then results = { { kind = "k", varies = false } } end
            for k, result in ipairs(results) do
                list[#list + 1] = { node = node, kind = result.kind, varies = result.varies, index = k, missing = result.missing }
            end
        else
            local kind, varies = expr(inst, node, flow)
            list[#list + 1] = { node = node, kind = kind, varies = varies }
        end
    end
    return list
end

---------------------------------------------------------------------------------------------------
-- Statements: each gives whether control can come out behind it

local statement = {}

-- Values that a local can only be another name for, since they do not exist on the device.
local function alias_of(inst, var, node)
    if var.assigned or not node then return end
    if node.tag == "Function" then return { nested = node.def, path = var.name, key = var.name, inst = inst } end
    local static = static_of(inst, node)
    if static and (static.nested or type(static.value) ~= "number" and not wide.kind_of(static.value)) then return static end
end

-- Is one of the values a call that never returns?
local function ends_in(inst, exprs)
    for _, node in ipairs(exprs) do
        if inst.calls[node] and inst.calls[node].never_returns then return true end
    end
    return false
end

function statement.Local(inst, node, flow)
    local aliases, exprs = {}, {}
    for i, var in ipairs(node.vars) do
        aliases[i] = alias_of(inst, var, node.exprs[i])
        if not aliases[i] and node.exprs[i] then exprs[#exprs + 1] = node.exprs[i] end
    end
    for i = #node.vars + 1, #node.exprs do exprs[#exprs + 1] = node.exprs[i] end
    local given, at = values(inst, exprs, flow), 0
    inst.lists[node] = exprs
    for i, var in ipairs(node.vars) do
        local known = declare(inst, flow, var)
        if aliases[i] then
            known.static = aliases[i]
        else
            at = at + 1
            local value = given[at]
            if value then check_given(inst, value) end
            if value and value.kind ~= "nil" then
                widen(inst, node, var, storable(inst, node, value.kind, ("'%s'"):format(var.name)), value.varies)
                flow.assigned[var] = state_for(inst, flow, value)
            else
                -- who reads a guarded local has asked for its flag before: lower/optional.lua
                flow.assigned[var] = var.is_guarded or "nil"
            end
        end
    end
    return not ends_in(inst, exprs)
end

function statement.LocalFunction(inst, node, flow)
    if node.var.assigned then refuse(inst, node, "'%s' is assigned to; a function has one body on a device", node.var.name) end
    declare(inst, flow, node.var).static = { nested = node.def, path = node.var.name, key = node.var.name, inst = inst }
    return true
end

function statement.Assign(inst, node, flow)
    for _, target in ipairs(node.targets) do
        local var = target.tag == "Name" and variable_of(inst, target)
        if target.tag == "Index" then
            local static = static_of(inst, target.object)
            if not static or static.nested or not infer.array_type(static.value) or target.key.tag == "String" then
                refuse(inst, target, "assignment to an element or field of '%s'; GPU functions share no state but typed arrays, return the value",
                    static and static.path or "something computed")
            elseif #node.targets > 1 then
                refuse(inst, target, "an assignment of several values, one of them to '%s'; assign to elements one by one", static.path)
            end
        elseif not var or not inst.vars[var] or not is_within(var.def, inst.def) then
            refuse(inst, target, "assignment to '%s', which is not a local of this function; GPU functions share no state, "
                .. "return the value", target.name)
        end
    end
    for _, value in ipairs(node.exprs) do
        if value.tag == "Function" then expr(inst, value, flow) end
    end
    local given = values(inst, node.exprs, flow)
    if node.targets[1].tag == "Index" then
        local value, name = given[1], ("an element of '%s'"):format(static_of(inst, node.targets[1].object).path)
        local kind = storable(inst, node, value and value.kind or (not value and "nil" or nil), name)
        if not WIDE[kind] then numeric(inst, node, kind, name) end
        element(inst, node.targets[1], flow, true)
        local update = update_of(inst, node.targets[1], node.exprs[1])
        -- What is the same for all lanes is done once, and the rest of an expression not lane by
        -- lane.
        if update and inst.program.lanes > 1 and not (inst.simd and update.is_simple) then error({ is_scalar = true }, 0) end
        inst.updates[node.targets[1]] = update
        inst.program.has_updates = inst.program.has_updates or update ~= nil
        return true
    end
    local states = {}
    for i, target in ipairs(node.targets) do
        local var, value = target.var, given[i]
        if value then check_given(inst, value) end
        -- A local that a loop sets to nil would be nil in the next iteration and after the loop,
        -- which is not followed.
        local is_nil = (not value or value.kind == "nil") and (inst.vars[var].loops == #inst.loops or ends_in(inst, node.exprs))
        if not is_nil then
            local kind = storable(inst, value and value.node or node, value and value.kind or (not value and "nil" or nil), ("'%s'"):format(var.name))
            widen(inst, node, var, kind, value.varies or (inst.simd and flow.level > inst.vars[var].level))
        end
        states[i] = is_nil and "nil" or state_for(inst, flow, value)
    end
    for i, target in ipairs(node.targets) do flow.assigned[target.var] = states[i] end
    return not ends_in(inst, node.exprs)
end

-- A private array. Its lanes differ, as far as anybody knows.
function statement.Room(inst, node, flow)
    local known = declare(inst, flow, node.var)
    known.room = node.size
    if inst.simd then known.varies = true end
    flow.assigned[node.var] = true
    return true
end

function statement.Put(inst, node, flow)
    numeric(inst, node.index, (expr(inst, node.index, flow)), "an index")
    local name = ("an element of '%s'"):format(node.var.name)
    local kind = storable(inst, node.value, (expr(inst, node.value, flow)), name)
    if kind == "k" or kind == "long" then kind = "num" end
    widen(inst, node, node.var, kind, inst.simd)
    return true
end

function statement.CallStat(inst, node, flow)
    inst.assigns[node] = as_update(inst, node)
    if inst.assigns[node] then return statement.Assign(inst, inst.assigns[node], flow) end
    if node.call.tag == "Method" then expr(inst, node.call, flow) end
    call(inst, node.call, flow)
    return not inst.calls[node.call].never_returns
end

function statement.Do(inst, node, flow)
    return block(inst, node.body, flow)
end

function statement.If(inst, node, flow)
    local level, out, falls = flow.level, nil, false
    local open = true -- can a later clause be reached?
    local function branch(body)
        local inner = { assigned = copy_assigned(flow.assigned), level = flow.level }
        if not body or block(inst, body, inner) then
            falls = true
            out = meet(out, inner.assigned)
        end
    end
    for _, clause in ipairs(node.clauses) do
        local truth = truth_at(inst, clause.cond, flow)
        if truth == nil then
            local varies = condition(inst, clause.cond, flow)
            note(inst, clause, "bool", varies)
            flow.level = flow.level + (varies and 1 or 0)
        end
        if truth ~= false then branch(clause.body) end
        if truth then
            open = false
            break
        end
    end
    if open then branch(node.orelse) end
    flow.level = level
    flow.assigned = out or flow.assigned
    return falls
end

-- The body of a loop. Gives the flow at its end (nil when that is not reached) and at its breaks.
-- `finish` is called at the end of the body, still inside the loop.
local function loop_body(inst, node, flow, varies, finish)
    if varies then masks(inst, node) end
    inst.has_loops = true
    local level = flow.level + (inst.loop_varies[node] and 1 or 0)
    local loop = { node = node, level = level }
    inst.loops[#inst.loops + 1] = loop
    local inner = { assigned = copy_assigned(flow.assigned), level = level }
    if node.tag == "Fornum" then
        declare(inst, inner, node.var)
        inner.assigned[node.var] = true
    end
    local falls = block(inst, node.body, inner)
    if falls and finish then finish(inner) end
    inst.loops[#inst.loops] = nil
    return falls and inner.assigned or nil, loop.broken
end

statement["While"] = function(inst, node, flow)
    enter_loop(node, flow)
    local truth = truth_at(inst, node.cond, flow)
    if truth == false then return true end
    local varies = false
    -- Lanes that fail in the condition leave the loop.
    if truth == nil then
        inst.loops[#inst.loops + 1] = { node = node, level = flow.level + (inst.loop_varies[node] and 1 or 0) }
        varies = condition(inst, node.cond, { assigned = flow.assigned, level = inst.loops[#inst.loops].level })
        inst.loops[#inst.loops] = nil
    end
    local _, broken = loop_body(inst, node, flow, varies)
    if truth then
        flow.assigned = broken or flow.assigned
        return broken ~= nil
    end
    return true
end

statement["Repeat"] = function(inst, node, flow)
    enter_loop(node, flow)
    local truth, varies
    local at_end, broken = loop_body(inst, node, flow, false, function(inner)
        truth = truth_at(inst, node.cond, inner)
        if truth == nil then varies = condition(inst, node.cond, inner) end
    end)
    if varies then masks(inst, node) end
    if truth == false then at_end = nil end
    local out = meet(at_end, broken)
    flow.assigned = out or flow.assigned
    return out ~= nil
end

local function is_step(node)
    if not node then return true end
    local value = node.tag == "Number" and node.value
    if node.tag == "Unop" and node.op == "-" and node.expr.tag == "Number" then value = -node.expr.value end
    return value and value ~= 0 and value == math.floor(value) and math.abs(value) <= 2 ^ 20
end

function statement.Fornum(inst, node, flow)
    local start, start_varies = expr(inst, node.start, flow)
    local limit, limit_varies = expr(inst, node.limit, flow)
    local step, step_varies = "k", false
    if node.step then step, step_varies = expr(inst, node.step, flow) end
    for each, kind in pairs { [node.start] = start or false, [node.limit] = limit or false } do
        if kind then numeric(inst, each, kind, "'for'") end
    end
    numeric(inst, node.step or node, step, "'for'")
    -- With a whole start and a known whole step the counter is an integer: that is exact, since no
    -- loop makes more than 2^52 steps.
    local counter = "num"
    if (start == "k" or start == "int" or start == "long") and not start_varies and is_step(node.step) then counter = "long" end
    local loop = { counter = counter, varies = start_varies or step_varies, limit_varies = limit_varies }
    inst.fornum[node] = loop
    inst.vars[node.var] = inst.vars[node.var] or { varies = false }
    widen(inst, node, node.var, counter, loop.varies)
    enter_loop(node, flow)
    loop_body(inst, node, flow, start_varies or limit_varies or step_varies)
    return true
end

function statement.Forin(inst, node)
    refuse(inst, node, "'for ... in'; there are no iterators on a device, use a numeric for")
end

-- The statements before a label. Lanes that jump to the label wait there for the others. Locals
-- declared in these statements can be seen behind the label.
function statement.Region(inst, node, flow)
    local outer, level = flow.outer_level, flow.level
    local region = { node = node, level = level + (inst.loop_varies[node] and 1 or 0), loops = #inst.loops }
    inst.labels[#inst.labels + 1] = region
    flow.level, flow.outer_level = region.level, outer or level
    local falls = block(inst, node.body, flow)
    flow.level, flow.outer_level = level, outer
    inst.labels[#inst.labels] = nil
    local out = meet(falls and flow.assigned or nil, region.gone)
    flow.assigned = out or flow.assigned
    return out ~= nil
end

function statement.Goto(inst, node, flow)
    local region
    for _, each in ipairs(inst.labels) do
        if each.node.name == node.name then region = each end
    end
    if not region then refuse(inst, node, "'goto %s' goes back; on a device a goto only goes forward, use while or repeat", node.name) end
    if flow.level > region.level then
        masks(inst, region.node)
        for i = region.loops + 1, #inst.loops do
            if flow.level > inst.loops[i].level then masks(inst, inst.loops[i].node) end
        end
    end
    region.node.is_used = true
    region.gone = meet(region.gone, copy_assigned(flow.assigned))
    return false
end

function statement.Break(inst, node, flow)
    local loop = inst.loops[#inst.loops]
    if not loop then refuse(inst, node, "'break' outside of a loop") end
    if flow.level > loop.level then masks(inst, loop.node) end
    loop.broken = meet(loop.broken, copy_assigned(flow.assigned))
    return false
end

statement["Return"] = function(inst, node, flow)
    local given = values(inst, node.exprs, flow)
    local only = #node.exprs == 1 and inst.calls[node.exprs[1]]
    if only and only.never_returns then return false end
    inst.returns = true
    local results = inst.results
    if not results then
        results = {}
        for i = 1, #given do results[i] = {} end
        results.line = node.line
        inst.results = results
    end
    local few, many = { n = #given, line = node.line }, { n = #results, line = results.line }
    if few.n > many.n then few, many = many, few end
    for i = few.n + 1, many.n do
        results[i] = results[i] or {}
        if results[i].missing then break end
        results[i].missing = ("this returns %d value%s, and line %d returns %d"):format(many.n, many.n == 1 and "" or "s", few.line, few.n)
        results[i].line = many.line
    end
    for i, value in ipairs(given) do
        if value.missing and not results[i].missing then results[i].missing, results[i].line = value.missing, node.line end
        if value.kind == "nil" and inst.called_at then
            results[i].missing, results[i].line = results[i].missing or ("line %d returns nil for it"):format(node.line), node.line
            value.kind = nil
        end
        storable(inst, value.node, value.kind, ("result %d"):format(i))
        local joined = join(results[i].kind, value.kind)
        if value.kind and not joined then
            local both = WIDE[value.kind] or WIDE[results[i].kind]
            refuse(inst, node, "result %d is a %s in one place and a %s in another%s", i, both and shown(results[i].kind) or "number",
                both and shown(value.kind) or "boolean", both and wide_rules.advice(results[i].kind, value.kind) or "")
        end
        if joined ~= results[i].kind then
            results[i].kind = joined
            inst.changed = true
        end
    end
    leaves(inst, flow, false)
    return false
end

function block(inst, list, flow)
    for _, node in ipairs(list) do
        inst.flow = flow
        local falls = statement[node.tag](inst, node, flow)
        inst.ends[node] = not falls
        if not falls then return false end
    end
    return true
end

---------------------------------------------------------------------------------------------------
-- Instances

---@class tidepool.gpu.Instance one function for one kind of arguments
local Instance = {}
Instance.__index = Instance

-- Notes that the instance reads a captured number or array.
function Instance:capture(kind, static)
    local key = kind .. static.key
    if self.captured[key] then return end
    local program = self.program
    local entry = program.captured[key]
    if not entry then
        local ctype = kind == "number" and wide.kind_of(static.value) or kind == "array" and infer.array_type(static.value) or nil
        entry = { kind = kind, static = static, key = key, ctype = ctype, is_list = kind == "array" and not ctype }
        if entry.is_list then entry.ctype = select(2, infer.is_list(static.value)) or program.real end
        program.captured[key] = entry
        program.captures[#program.captures + 1] = entry
    end
    self.captured[key] = entry
    self.captures[#self.captures + 1] = entry
end

-- The number of a failure; the same text gets the same number.
function Instance:failure(kind, node, text, array)
    local program = self.program
    local key = kind .. node.line .. text
    local code = program.failure_codes[key]
    if not code then
        code = #program.failures + 1
        if code > FAILURES_MAX then refuse(self, node, "more than %d different ways to fail", FAILURES_MAX) end
        program.failures[code] = { kind = kind, line = node.line, message = text, file = (node.source or self.fn.source).file, array = array }
        program.failure_codes[key] = code
    end
    return code
end

function Instance:settle()
    local def = self.def
    local rounds = 0
    repeat
        rounds = rounds + 1
        if rounds > 60 then refuse(self, def, "its types do not settle; give the variables simpler roles") end
        self.changed, self.constants = false, {}
        local flow = { assigned = {}, level = 0 }
        for _, input in ipairs(self.inputs) do
            local known = declare(self, flow, input.var)
            known.kind, known.varies, known.static = known.kind or input.kind, known.varies or input.varies, input.static
            flow.assigned[input.var] = input.constant or true
        end
        for _, param in ipairs(def.params) do
            declare(self, flow, param)
            self.is_parameter[param] = true
            if not flow.assigned[param] then flow.assigned[param] = "nil" end
        end
        for _, var in ipairs(self.without or {}) do
            declare(self, flow, var)
            flow.assigned[var] = "nil"
        end
        self.falls = block(self, def.body, flow)
    until not self.changed
    self.is_settled = true
    self.never_returns = not self.falls and not self.returns
    self.results = self.results or {}
    if self.falls then
        for _, result in ipairs(self.results) do
            result.line = result.line or self.results.line
            result.missing = ("a path through the function ends without a return; line %d returns %d value%s"):format(result.line,
                #self.results, #self.results == 1 and "" or "s")
            result.line = def.last_line
        end
    end
    for var, known in pairs(self.vars) do
        if var.is_guarded and not known.kind then known.kind = "num" end -- what it would be given is never reached
    end
    for _, result in ipairs(self.results) do
        if result.kind == "k" or result.kind == nil then result.kind = "num" end
    end
end

-- The instance for these arguments; a new one is made and analysed.
function Program:instance(caller, at, wanted)
    local inst = self.by_key[wanted.key]
    recursion.check(infer, self, caller, at, wanted, refuse)
    if inst then return inst end
    if #self.instances >= INSTANCES_MAX then
        refuse(caller, at, "more than %d helper functions (by kinds of arguments)", INSTANCES_MAX)
    end
    inst = setmetatable({
        program = self, fn = wanted.fn, def = wanted.def, name = wanted.name, inputs = wanted.inputs, outer = wanted.outer,
        simd = wanted.simd, without = wanted.without, states = {}, labels = {},
        vars = {}, types = {}, varies = {}, statics = {}, loops = {}, places = {}, loop_varies = {}, fornum = {}, has_loops = false,
        calls = {}, codes = {}, stores = {}, columns = {}, lengths = {}, ends = {}, updates = {}, assigns = {}, is_parameter = {},
        called_at = caller.def and at.line, caller_place = wanted.caller_place, lists = {}, captures = {}, captured = {}, can_fail = false,
        draws = false, text = wanted.text, key = wanted.key, recursion_level = wanted.recursion_level or 0,
    }, Instance)
    self.by_key[wanted.key] = inst
    self.stack[#self.stack + 1] = inst
    inst:settle()
    self.stack[#self.stack] = nil
    self.instances[#self.instances + 1] = inst   -- callees come before their callers
    return inst
end

-- The function that reduces two results to one, as an instance like the root. It may not fail.
local function combiner(program, top, value, lanes)
    local fn = function_of(program, value, "reduce")
    local at = { program = program, fn = fn, inst = top }
    local def, inputs = fn.def, {}
    if #def.params ~= 2 or def.is_vararg then refuse(at, def, "the function of reduce takes 2 numbers, and this one does not") end
    for i, var in ipairs(def.params) do inputs[i] = { var = var, kind = "num", varies = lanes > 1 } end
    local inst = program:instance(at, def, {
        key = "combiner", fn = fn, def = def, name = "reduce", inputs = inputs, simd = lanes > 1, text = recursion.text(fn, def), written = def,
    })
    if #inst.results ~= 1 or not NUMERIC[inst.results[1].kind] then refuse(at, def, "the function of reduce returns one number") end
    if inst.can_fail then
        refuse(at, def, "the function of reduce cannot fail: error, assert and elements of arrays belong into the function that is mapped")
    end
    if inst.draws then
        refuse(at, def, "the function of reduce draws no random numbers; math.random belongs into the function that is mapped")
    end
    return inst
end

-- infer.program, once the modes of functions that call themselves are known.
local function analyse(value, options, is_simd, modes)
    local program = setmetatable({
        name = options.name, text_of = options.text_of, lanes = options.lanes, real = options.real, is_simd = is_simd or false,
        functions = {}, by_key = {}, stack = {}, instances = {}, modes = modes, tracks = next(modes) ~= nil,
        recursion_limit = options.recursion_limit,
        captures = {}, captured = {}, failures = {}, failure_codes = {}, baked = {},
    }, Program)
    local fn = function_of(program, value, options.name)
    local top = { program = program, fn = fn }
    if not fn.def.is_vararg then
        local def = lower.def(program, fn, options, infer, function(called, name, at)
            return function_of(program, called, name, at and { inst = top, at = at })
        end)
        fn = setmetatable({ def = def }, { __index = fn })
        top.fn = fn
    end
    local def = fn.def
    if def.is_vararg then refuse(top, def, "'...'; there are no variable arguments on a device, name the parameters") end
    local kinds = options.inputs or {}
    if #kinds > #def.params then
        refuse(top, def, "it takes %d argument%s and is given %d inputs", #def.params, #def.params == 1 and "" or "s", #kinds)
    end
    local inputs = {}
    for i, var in ipairs(def.params) do
        if options.inputs and not kinds[i] then break end
        local kind = kinds[i] == "bool" and "bool" or PLACE_TYPES[kinds[i]] or ARRAY_TYPES[kinds[i] or "double"]
        if not kind then refuse(top, def, "inputs of type %s; use double or int32", tostring(kinds[i])) end
        inputs[i] = { var = var, kind = kind, varies = options.lanes > 1 }
    end
    program.root = program:instance(top, def, {
        key = "root", fn = fn, def = def, name = options.name, inputs = inputs, simd = options.lanes > 1, text = recursion.text(fn, def),
        written = def,
    })
    for _, result in ipairs(program.root.results) do
        if result.missing then
            refuse(top, result, "%s; %s", result.missing, "a function returns the same number everywhere")
        end
    end
    local writes = false
    for _, entry in ipairs(program.captures) do writes = writes or entry.is_written end
    if #program.root.results == 0 and not writes then
        refuse(top, { line = def.last_line }, "it returns nothing and writes to no array: there is nothing that a device could give back")
    end
    -- A function that draws random numbers was analysed as one in which no lane differs: start
    -- again, with lanes in all functions.
    if options.lanes > 1 and program.is_scalar_draw and not is_simd then return infer.program(value, options, true) end
    if options.combine then program.combiner = combiner(program, top, options.combine, options.lanes) end
    return program
end

---Analyses a function. Raises { refusal = message }, or { is_scalar = true } when it can be done in
---the scalar form only.
---@param value function
---@param options { name: string?, lanes: integer, real: "double"|"float", inputs: string[]?, text_of: function?, combine: function?,
---   recursion_limit: integer? }
---@param is_simd boolean? all functions have lanes, also those in which nothing differs between them
---@return table program with .root, .combiner, .instances (callees first), .captures, .failures, .baked
function infer.program(value, options, is_simd)
    return recursion.settle(function(modes) return analyse(value, options, is_simd, modes) end)
end

return infer
