-- choices.lua: functions of which it is not known before it runs which one it is: an element of a
-- list of functions, or `c and f or g`.
--
-- The value is { t = "choice", key = a node, a number that says which; cases = a list of { key,
-- value } }. A call of it is a chain of ifs with a call of each.

local nodes = require "tidepool.translate.lower.nodes"
local statics = require "tidepool.translate.lower.statics"

local choices = {}

local hold, name_of, new_local, node_at, number = nodes.hold, nodes.name_of, nodes.new_local, nodes.node_at, nodes.number
local refuse = nodes.refuse

local CASES_MAX = 32

--- Is the value a function, or one of several?
function choices.is_function(value)
    return value.t == "function" or value.t == "choice" or value.t == "static" and type(value.static.value) == "function"
end

--- The number of functions of a captured list that has nothing else; nil of other values. It may
--- count from 0: then that is told.
function choices.count(value)
    if type(value) ~= "table" or debug.getmetatable(value) ~= nil or type(value[1] or value[0]) ~= "function" then return end
    local from, count = value[0] ~= nil and 0 or 1, 0
    for key, each in next, value do
        if type(key) == "number" then
            if type(each) ~= "function" or key < from or key > #value or key ~= math.floor(key) then return end
            count = count + 1
        end
    end
    return count <= CASES_MAX and count == #value + 1 - from and count or nil, from
end

--- The element of a captured list of functions.
function choices.of_list(L, at, static, key)
    local count, from = choices.count(static.value)
    local form = statics.derived(static, "#" .. static.path, "functions", choices.count)
    L.program.baked[form.key] = form
    local cases = {}
    for i = 1, count do
        cases[i] = { key = from + i - 1, value = statics.of_static(L, at, statics.static_field(static, from + i - 1)) }
    end
    return { t = "choice", key = hold(L, at, key, "index"), cases = cases, path = static.path }
end

--- One function or the other: a local says which, counted from 1. `first_lines`, `second_lines`:
--- the statements that they need.
function choices.either(L, at, cond, first, first_lines, second, second_lines)
    local var, cases = new_local(L, "which", at, true), {}
    local function set(value, lines)
        local before = #cases
        local _, more = nodes.aside(L, function()
            local id = number(L, at, before + 1)
            if value.t == "choice" then
                if value.is_by_text then refuse(L, at, "a function that is named by a text, or another one; write it as an if") end
                choices.check(L, at, value)
                id = nodes.binop(L, at, "+", value.key, number(L, at, before + 1 - value.cases[1].key))
            end
            nodes.emit(L, node_at(L, at, "Assign", { targets = { name_of(L, at, var) }, exprs = { id } }))
        end)
        for _, line in ipairs(more) do lines[#lines + 1] = line end
        for _, case in ipairs(value.t == "choice" and value.cases or { { value = value } }) do
            cases[#cases + 1] = { key = #cases + 1, value = case.value }
        end
        return lines
    end
    nodes.emit(L, node_at(L, at, "Local", { vars = { var }, exprs = { number(L, at, 1) } }))
    nodes.emit(L, nodes.if_statement(L, at, cond, set(first, first_lines), set(second, second_lines)))
    if #cases > CASES_MAX then refuse(L, at, "one of more than %d functions", CASES_MAX) end
    return { t = "choice", key = name_of(L, at, var), path = "a function", cases = cases }
end

-- What stays the same from one round to the next of a function.
local function name_of_case(value)
    if value.t == "static" then return value.static.key end
    if value.t ~= "choice" then return tostring(value.def) end
    local list = {}
    for i, case in ipairs(value.cases) do list[i] = name_of_case(case.value) end
    return table.concat(list, " ")
end
choices.name_of_case = name_of_case

--- The function of the key and the arguments that calls the right one, with `count` arguments.
function choices.dispatcher(L, node, choice, count)
    local text = { tostring(count) }
    for _, case in ipairs(choice.cases) do text[#text + 1] = name_of_case(case.value) end
    local key = table.concat(text, " ")
    local made = L.dispatchers[node] or {}
    L.dispatchers[node] = made
    local def = made[key]
    if not def then
        def = { tag = "Def", line = node.line, last_line = node.line, params = {}, names = {}, body = {} }
        for i = 0, count do def.params[i + 1] = { name = i == 0 and "which" or "argument " .. i, line = node.line, def = def, assigned = false } end
        made[key] = def
    end
    local function name(i) return { tag = "Name", line = node.line, name = def.params[i].name, var = def.params[i] } end
    local clauses, last = {}, nil
    for i, case in ipairs(choice.cases) do
        local args = {}
        for k = 1, count do args[k] = name(k + 1) end
        local call = { tag = "Call", line = node.line, args = args, callee = { tag = "Given", line = node.line, value = case.value } }
        local body = { { tag = "Return", line = node.line, exprs = { call } } }
        if i == #choice.cases then
            last = body
        else
            local this = { tag = "Number", line = node.line, value = case.key }
            local cond = { tag = "Binop", op = "==", line = node.line, left = name(1), right = this }
            clauses[i] = { tag = "Clause", line = node.line, cond = cond, body = body }
        end
    end
    def.body = #clauses > 0 and { { tag = "If", line = node.line, clauses = clauses, orelse = last } } or last
    local source = { file = L.context.fn.source.file, lines = L.context.fn.source.lines, upvalues = {} }
    return { t = "function", name = choice.path, def = def, fn = { def = def, source = source, env = {}, outside = {} } }
end

--- Fails where the key is none of those of the choice.
function choices.check(L, node, choice)
    if choice.is_chosen then
        if not choice.may_be_none then return end
        local is_one = nodes.binop(L, node, ">", choice.key, number(L, node, 0))
        return nodes.check(L, node, is_one, { ("'%s' is nil, and is called"):format(choice.path) })
    end
    local first, last = choice.cases[1].key, choice.cases[#choice.cases].key
    if choice.key.tag == "Name" and choice.key.var.assigned then return end -- of `either`
    local is_one = nodes.is_within(L, node, choice.key, number(L, node, first), number(L, node, last))
    if choice.is_by_text then
        is_one = nil
        for _, case in ipairs(choice.cases) do
            local cond = nodes.binop(L, node, "==", choice.key, number(L, node, case.key))
            is_one = is_one and nodes.node_at(L, node, "Or", { op = "or", left = is_one, right = cond }) or cond
        end
        return nodes.check(L, node, is_one, { ("'%s' has no such function"):format(choice.path) })
    end
    nodes.check(L, node, is_one,
        { "index ", (" of '%s' has no function"):format(choice.path) }, choice.key)
end

return choices
