-- statements.lua: blocks, conditions, calls whose values nobody wants, and returns. `is_tail`:
-- nothing of the function comes behind the statement.

local calls = require "tidepool.translate.lower.calls"
local choices = require "tidepool.translate.lower.choices"
local choosers = require "tidepool.translate.lower.choosers"
local classes = require "tidepool.translate.lower.classes"
local elements = require "tidepool.translate.lower.elements"
local expressions = require "tidepool.translate.lower.expressions"
local facts = require "tidepool.translate.lower.facts"
local falses = require "tidepool.translate.lower.falses"
local lifting = require "tidepool.translate.lower.lifting"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local places = require "tidepool.translate.lower.places"
local symbols = require "tidepool.translate.lower.symbols"
local texts = require "tidepool.translate.lower.texts"
local walk = require "tidepool.translate.lower.walk"

local find, new_class, note_change = classes.find, classes.new_class, classes.note_change
local aside, emit, hold_value, if_statement, name_of = nodes.aside, nodes.emit, nodes.hold_value, nodes.if_statement, nodes.name_of
local is_boolean, new_local, node_at, refuse = nodes.is_boolean, nodes.new_local, nodes.node_at, nodes.refuse
local new_storage, note_copy, object = places.new_storage, places.note_copy, places.object
local copy = elements.copy
local truth_of = facts.truth_of
local block, scoped, statement = walk.block, walk.scoped, walk.statement
local expr_scalar = expressions.expr_scalar
local call_values, expr_list, mark_named = calls.call_values, calls.expr_list, calls.mark_named

function statement.CallStat(L, node)
    local values = call_values(L, node.call)
    for _, value in ipairs(values) do
        local made = value.t == "scalar" and value.node
        if made and (made.tag == "Call" or made.tag == "Method") then emit(L, node_at(L, node, "CallStat", { call = made })) end
    end
end

function statement.Do(L, node, is_tail)
    -- what the function ends with is seen behind it
    if is_tail then return scoped(L, node.body, is_tail) end
    local _, body = aside(L, function() scoped(L, node.body) end)
    emit(L, node_at(L, node, "Do", { body = body }))
end

-- Gives true where what is written surely ends the block.
local function clauses(L, node, first, is_tail)
    local clause = node.clauses[first]
    if not clause then return node.orelse and scoped(L, node.orelse, is_tail) end
    local truth = truth_of(L, clause.cond)
    local cond = truth == nil and expr_scalar(L, clause.cond, "a condition")
    if cond and (cond.tag == "True" or cond.tag == "False") then truth = cond.tag == "True" end
    if truth == false then return clauses(L, node, first + 1, is_tail) end
    if truth then return scoped(L, clause.body, is_tail) end
    local _, body = aside(L, function()
        optional.keeping(L, function() scoped(L, clause.body, false) end, cond, true)
    end)
    local has_more = node.clauses[first + 1] or node.orelse
    local _, orelse = aside(L, function()
        if has_more then optional.keeping(L, function() clauses(L, node, first + 1, false) end, cond, false) end
    end)
    emit(L, if_statement(L, clause, cond, body, has_more and orelse or nil))
    if not optional.falls(body) then optional.learn(L, cond, false) end
end

statement["If"] = function(L, node, is_tail) return clauses(L, node, 1, is_tail) end

function statement.Region(L, node)
    L.scope.has_labels = true
    local _, body = aside(L, function() block(L, node.body) end)
    emit(L, node_at(L, node, "Region", { name = node.name, body = body }))
end

function statement.Goto(L, node) emit(L, node_at(L, node, "Goto", { name = node.name })) end

-- Which results of a function are texts that are known only when it runs.
local function result_symbols(L, def)
    L.result_symbols[def] = L.result_symbols[def] or {}
    return L.result_symbols[def]
end

-- Makes the place of result i of a function that is inlined: before its body.
local function new_result(L, node, i, value)
    local context = L.context
    local returns, key, known = context.returns, context.def, nil
    local missing = L.missing[key] and L.missing[key][i]
    local marks = result_symbols(L, key)
    local text = not marks[i] and value.t == "scalar" and texts.text_of(value)
    L.results[key] = L.results[key] or {}
    local _, lines = aside(L, function()
        if text then
            known = { t = "result", text = text.value }
        elseif value.t == "scalar" and not L.results[key][i] then
            local var = new_local(L, "result of " .. (context.name or "a function"), node, true)
            var.is_guarded, var.is_boolean = missing, is_boolean(value.node)
            emit(L, node_at(L, node, "Local", { vars = { var }, exprs = {} }))
            known = { t = "result", var = var, symbol = marks[i] }
        elseif choices.is_function(value) then
            local var = L.result_functions[key] or {}
            L.result_functions[key] = var
            var[i] = var[i] or { name = ("result %d of '%s'"):format(i, context.name or "a function") }
            choosers.note(L, var[i])
            known = choosers.new(L, node, context.call_scope, var[i])
            known.known.has_nil = true -- of paths without it
        else
            L.results[key][i] = L.results[key][i] or new_class()
            find(L.results[key][i]).is_table = true
            local loops, zero = L.loops, L.zero
            L.loops, L.zero = {}, missing
            for k = 1, context.depth do L.loops[k] = loops[k] end
            L.result_mark = { asides = not missing and context.asides, context = context.caller, is_result = true }
            known = object(new_storage(L, node, L.results[key][i], context.name or "result"))
            L.loops, L.zero, L.result_mark = loops, zero, nil
        end
        if missing then
            local flag = new_local(L, "has a result", node, true)
            flag.is_flag = true
            emit(L, node_at(L, node, "Local", { vars = { flag }, exprs = { node_at(L, node, "False", {}) } }))
            known.flag = flag
        end
    end)
    for _, line in ipairs(lines) do context.declared[#context.declared + 1] = line end
    returns.values[i] = known
    return known
end

-- Writes what a return gives for result i of a function that is inlined.
local function store_result(L, node, i, value)
    local context = L.context
    local returns, what = context.returns, context.name or "the function"
    returns.count = math.max(returns.count, i)
    if value.t == "scalar" and value.node.tag == "Nil" then return end
    local given = returns.values[i]
    if given and given.t == "given" then -- an argument, which the caller has
        if given.flag then
            emit(L, node_at(L, node, "Assign", { targets = { name_of(L, node, given.flag) }, exprs = { optional.is_there(L, node, value) } }))
        end
        return
    end
    local known = returns.values[i] or new_result(L, node, i, value)
    local marks = result_symbols(L, context.def)
    local text = not marks[i] and value.t == "scalar" and texts.text_of(value)
    if known.flag then
        emit(L, node_at(L, node, "Assign", { targets = { name_of(L, node, known.flag) }, exprs = { optional.is_there(L, node, value) } }))
    end
    if known.t == "chooser" then return choosers.write(L, node, known, value) end
    if known.text and marks[i] then return end -- the next round has a place for it
    if known.text or text then
        if known.text and value.t == "scalar" and (value.node.tag == "Symbol" or text and known.text ~= text.value) then
            marks[i] = true
            note_change(L)
            return
        end
        if not known.text or not text then refuse(L, node, "result %d of '%s' is a text in one place and a number in another", i, what) end
        if value.node.tag == "Fixed" then L.program.baked[text.key] = text end
    elseif known.var and not known.storage then
        if value.t ~= "scalar" then refuse(L, node, "result %d of '%s' is a number in one place and a table in another", i, what) end
        local stored = symbols.stored(L, node, marks, i, value.node, ("result %d of '%s'"):format(i, what))
        emit(L, node_at(L, node, "Assign", { targets = { name_of(L, node, known.var) }, exprs = { stored } }))
    else
        if value.t == "scalar" then refuse(L, node, "result %d of '%s' is a table in one place and a number in another", i, what) end
        copy(L, node, known, value)
        if value.is_named and value.storage.root.serial <= context.serial then note_copy(L, node, value, known) end
    end
end

statement["Return"] = function(L, node, is_tail)
    local context = L.context
    local values = mark_named(node.exprs, expr_list(L, node.exprs))
    local returns = context.returns
    for _, value in ipairs(context.lift and values or {}) do falses.refuse(L, node, value, context.name) end
    if context.lift and lifting.give(L, node, values) then return end
    -- Was the table made in this call, which ends here?
    local function is_own(value) return value.storage.root.serial > context.serial end
    if not returns then -- the whole function's
        local list = {}
        for i, value in ipairs(values) do
            local var = value.flag and not L.present[value.flag] and value.of
            if var and L.program:is_unset(context.fn.source.file, var) then
                refuse(L, node, "'%s' may be read before it has a value, and nil does not exist on a device; give it a number where it is "
                    .. "declared (line %d)", var.name, var.line)
            end
            -- What may be missing here is a result of plain Lua, so that it is refused (infer.lua).
            value = value.origin and not value.flag and optional.stripped(value) or optional.settle(L, node, value)
            if value.t ~= "scalar" then
                refuse(L, node, "result %d is a %s; on a device results are numbers and booleans, return %s", i,
                    unpack(choices.is_function(value) and { "function", "what it gives" } or { "table", "its fields" }))
            end
            list[i] = value.node
        end
        emit(L, node_at(L, node, "Return", { exprs = list }))
        return
    end
    if is_tail and not returns.label then
        -- What is returned may be the callee's own, or its caller's: the names of the callee end
        -- here.
        for i, value in ipairs(values) do
            if value.t ~= "scalar" or not nodes.is_missing(value.node) then values[i] = hold_value(L, node, value, context.name) end
            if value.is_named and is_own(value) then
                values[i] = optional.mark(object(value.storage, value.at), value)
            end
        end
        returns.values = values
        return
    end
    if not returns.label then
        L.labels = L.labels + 1
        returns.label = ("end of %s %d"):format(context.name or "function", L.labels)
    end
    local keys = L.false_results[context.def] or {}
    L.false_results[context.def] = keys
    for i, value in ipairs(values) do
        keys[i] = keys[i] or {}
        local is_none
        values[i], is_none = falses.given(L, keys[i], value)
        if is_none then classes.learn(L, L.optional, context.def, true) end
    end
    optional.note_return(L, node, returns, values)
    for i, value in ipairs(values) do store_result(L, node, i, value) end
    emit(L, node_at(L, node, "Goto", { name = returns.label }))
end
