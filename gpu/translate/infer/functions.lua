-- functions.lua: the functions of a program: their texts, what a name in one stands for, what can
-- be seen in a text without knowing any types, and the refusal of what a device cannot run.

local source = require "tidepool.translate.source"

local functions = {}

-- Raises the refusal of a construct. `at` is a node, or anything with a line.
local function refuse(inst, at, format, ...)
    local program = inst.program
    local inside = inst.fn.name ~= program.name and inst.fn.name and (" in '%s':"):format(inst.fn.name) or ""
    error({ refusal = ("%s:%d: gpu function%s:%s %s"):format((at.source or inst.fn.source).file, at.line,
        program.name and (" '%s'"):format(program.name) or "", inside, format:format(...)) }, 0)
end
functions.refuse = refuse

-- Finds the text of a function value and what is known about it; raises when it has no text.
function functions.function_of(program, value, name, blame)
    local fn = program.functions[value]
    if fn then return fn end
    local found, why = source.find(value, program.text_of)
    if not found then
        local text = ("function '%s' cannot be translated: %s"):format(name or "?", why)
        if blame then refuse(blame.inst, blame.at, "%s", text) end
        local info = debug.getinfo(value, "S")
        -- who calls gives a function without lines a place
        local place = info.what == "C" and "" or ("%s:%d: "):format(info.short_src, math.max(info.linedefined, 0))
        error({ refusal = ("%sgpu %s"):format(place, text) }, 0)
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
function functions.variable_of(inst, node)
    if node.var and not inst.fn.outside[node.var.def] then return node.var end
end

-- The host's value behind a name that is no local of the function `fn`: an upvalue's or a global's.
function functions.static_outside(fn, name)
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

-- Calls visit(part) for the parts of a node, which are of the text; not for what it refers to.
local function each_part(node, visit)
    for key, part in pairs(node) do
        if type(part) == "table" and key ~= "var" and key ~= "vars" and key ~= "def" and key ~= "assigns" and key ~= "static"
            and key ~= "source" then
            visit(part)
        end
    end
end
functions.each_part = each_part

-- Lists the locals of enclosing functions that a nested one reads, also through nested ones that it
-- calls. `fn`: the function value whose text it is in.
local function nested_captures(fn, def, list, seen)
    for _, node in ipairs(seen[def] and {} or def.names) do
        local var = node.var
        if not fn.outside[var.def] and not seen[var] then
            if var.bound and not var.assigned then
                seen[def], seen[var] = true, true
                nested_captures(fn, var.bound, list, seen)
            else
                list[#list + 1] = node
                seen[var] = #list
            end
        elseif node.is_ref and type(seen[var]) == "number" then
            list[seen[var]] = node -- one of them changes it
        end
    end
    return list
end
functions.nested_captures = nested_captures

function functions.is_within(def, outer)
    while def do
        if def == outer then return true end
        def = def.outer
    end
    return false
end

-- Does the function call error with level 2 or more, or instead of returning? Then where it is
-- called makes a difference.
function functions.tells_caller(fn, def)
    if def.tells_caller == nil then
        def.tells_caller = false
        local function visit(node)
            local level = node.tag == "Call" and (node.args[2] and node.args[2].value or 1) + (node.is_tail and 1 or 0)
            local fixed = level and node.callee.static
            if fixed and fixed.value == error and level >= 2 and not node.caller_place then def.tells_caller = true end
            if level and level >= 2 and node.callee.tag == "Name"
                and (not node.callee.var or fn.outside[node.callee.var.def])
                and functions.static_outside(fn, node.callee.name).value == error then
                def.tells_caller = true
            end
            each_part(node, visit)
        end
        visit(def.body)
    end
    return def.tells_caller
end

return functions
