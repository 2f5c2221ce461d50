-- lifted_results.lua: results of functions that call themselves (lifting.lua). Where they are
-- numbers on each path these are returned as they are. Else (`is_full`) the function's end returns
-- what its paths have left in locals: numbers, and whether they are there; tables lie in storage of
-- the caller.

local arguments = require "tidepool.translate.lower.lifted_arguments"
local classes = require "tidepool.translate.lower.classes"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local places = require "tidepool.translate.lower.places"
local symbols = require "tidepool.translate.lower.symbols"
local trees = require "tidepool.translate.trees"

local results = {}

local is_nil, locals_of, new_formal = arguments.is_nil, arguments.locals_of, arguments.new_formal
local find, learn, new_class = classes.find, classes.learn, classes.new_class
local emit, name_of, new_local, node_at = nodes.emit, nodes.name_of, nodes.new_local, nodes.node_at
local number, scalar = nodes.number, nodes.scalar
local new_storage, note_copy, object = places.new_storage, places.note_copy, places.object

--- What the text says of the results: how many there are, and which of them are tables.
function results.scan(L, info, def)
    local is_table, marks = {}, L.result_symbols[def] or {}
    L.result_symbols[def] = marks
    local function makes_table(node)
        node = trees.bare(node)
        if node.tag == "Call" and node.callee.tag == "Name" and node.callee.name == "setmetatable" then return true end
        return node.tag == "Table" or node.tag == "Name" and is_table[node.var] or false
    end
    trees.each_statement(def.body, function(node)
        if node.tag == "Local" then
            for i, var in ipairs(node.vars) do is_table[var] = node.exprs[i] and makes_table(node.exprs[i]) end
        end
        for k, each in ipairs(node.tag == "Return" and node.exprs or {}) do
            local result = info.results[k] or { copies = {} }
            info.results[k] = result
            result.is_table = result.is_table or makes_table(each)
            if each.tag == "String" then
                if result.text and result.text ~= each.value then learn(L, marks, k, true) end
                result.text = result.text or each.value
            end
            for i, param in ipairs(def.params) do
                if each.tag == "Name" and each.var == param and info.roles[i] == "table" and info.gives[k] == nil then info.gives[k] = i end
            end
            if result.is_table then info.is_full = true end
        end
    end)
    for k, result in ipairs(info.results) do
        if marks[k] then result.text = nil end
    end
end

--- The values of a call whose results are written to locals, which are `vars`, and to storage,
--- which is appended to `refs`.
function results.values(L, at, lift, args, vars, refs)
    local info, def, list = lift.info, lift.def, {}
    local missing = L.missing[def] or {}
    for k, result in ipairs(info.results) do
        local value
        if result.text then
            value = scalar(node_at(L, at, "String", { value = result.text }))
            value.text, value.several = result.text, result.several
        elseif info.gives[k] then
            local given = args[info.gives[k]]
            value = given.t == "object" and object(given.storage, given.at) or scalar(node_at(L, at, "Nil", {}))
            value.is_named = true
        elseif result.is_nil then
            value = scalar(node_at(L, at, "Nil", {}))
        elseif result.is_table then
            L.results[def] = L.results[def] or {}
            L.results[def][k] = L.results[def][k] or new_class()
            find(L.results[def][k]).is_table = true
            L.zero = missing[k]
            value = object(new_storage(L, at, L.results[def][k], lift.name))
            L.zero = false
            for _, var in ipairs(locals_of(value.storage, {})) do refs[#refs + 1] = name_of(L, at, var) end
            for i in pairs(result.copies) do
                if args[i].t == "object" then note_copy(L, at, args[i], value) end
            end
        else
            vars[#vars + 1] = new_local(L, "t", at)
            local name, marks = name_of(L, at, vars[#vars]), L.result_symbols[def] or {}
            value = scalar(marks[k] and symbols.wrap(L, at, name) or name)
        end
        if missing[k] and not is_nil(value) then
            value.flag = new_local(L, "has a result", at)
            value.flag.is_flag = true
            vars[#vars + 1] = value.flag
        end
        if result.why then
            value.origin, value.why, value.is_sure, value.may_be_nil = def, result.why, result.is_sure, true
        end
        list[k] = value
    end
    return list
end

--- Makes the places of results that are tables, before the body is walked.
function results.open(L, at, lift)
    local info, def = lift.info, lift.def
    L.labels = L.labels + 1
    local returns = { values = {}, given = {}, count = 0, label = ("end of %s %d"):format(lift.name or "function", L.labels) }
    local missing = L.missing[def] or {}
    L.context.declared = {}
    for k, result in ipairs(info.results) do
        if result.is_table and not info.gives[k] then
            L.results[def] = L.results[def] or {}
            L.results[def][k] = L.results[def][k] or new_class()
            find(L.results[def][k]).is_table = true
            local known = object(new_formal(L, at, lift, L.results[def][k], lift.name or "result"))
            known.storage.formal = { lift = lift, result = k }
            returns.values[k] = known
        elseif info.gives[k] then
            returns.values[k] = { t = "given" }
        end
        if missing[k] and returns.values[k] then
            local flag = new_local(L, "has a result", at, true)
            table.insert(L.context.declared, node_at(L, at, "Local", { vars = { flag }, exprs = { node_at(L, at, "False", {}) } }))
            returns.values[k].flag = flag
        end
    end
    L.context.returns = returns
end

--- Writes the end of the function, where all its results are there, and keeps what was seen of
--- them.
function results.close(L, at, lift, body)
    local info, def, returns = lift.info, lift.def, L.context.returns
    for k = 1, returns.count do returns.values[k] = returns.values[k] or scalar(node_at(L, at, "Nil", {})) end
    optional.complete(L, def, returns, optional.falls(body) and def.last_line or nil)
    local exprs = {}
    for k = 1, returns.count do
        local value, result = returns.values[k], info.results[k]
        if not result then
            result = { copies = {} }
            learn(L, info.results, k, result)
        end
        if value.why and not L.misses[def] then -- which its text alone does not tell
            L.misses[def], L.nil_locals = true, {}
            learn(L, L.optional, def, true)
        end
        learn(L, result, "is_nil", is_nil(value))
        learn(L, result, "text", value.text)
        learn(L, result, "several", value.several)
        learn(L, result, "is_table", value.storage ~= nil and value.t ~= "given")
        learn(L, result, "why", value.why)
        learn(L, result, "is_sure", value.is_sure)
        if value.var then exprs[#exprs + 1] = name_of(L, at, value.var) end
        if value.flag then exprs[#exprs + 1] = name_of(L, at, value.flag) end
    end
    local list = {}
    for _, line in ipairs(L.context.declared) do list[#list + 1] = line end
    list[#list + 1] = node_at(L, at, "Region", { name = returns.label, body = body })
    list[#list + 1] = node_at(L, { line = def.last_line }, "Return", { exprs = exprs })
    return list
end

-- The parameter whose table a value is; nil of other values.
local function given_by(lift, value)
    local formal = value.t == "object" and value.storage.formal
    return formal and formal.lift == lift and formal.index or nil
end

--- Looks at what a return in the function gives, before it is written: true where it is written
--- here.
function results.give(L, node, values)
    local lift = L.context.lift
    local info = lift.info
    for k, value in ipairs(values) do
        local index = given_by(lift, value)
        if index and info.gives[k] == nil and not (info.results[k] and info.results[k].is_table) then
            learn(L, info.gives, k, index)
        elseif info.gives[k] and index ~= info.gives[k] and not is_nil(value) then
            learn(L, info.gives, k, false)
        end
        if value.t ~= "scalar" and not info.gives[k] then
            info.results[k] = info.results[k] or { copies = {} }
            learn(L, info.results[k], "is_table", true)
        end
        local is_plain = value.t == "scalar" and not symbols.is_text(value.node) and not value.flag and not value.origin and not value.may_be_nil
        if not is_plain then learn(L, info, "is_full", true) end
    end
    if L.context.returns then return false end
    -- What a call gives that is all that is returned is returned by the call.
    local last, list = L.out[#L.out], {}
    local is_jump = #node.exprs == 1 and node.exprs[1].tag == "Call" and last and last.tag == "Local" and #last.vars == #values
        and last.exprs[1] and last.exprs[1].tag == "Call"
    for i, value in ipairs(values) do
        is_jump = is_jump and value.t == "scalar" and value.node.tag == "Name" and value.node.var == last.vars[i]
        list[i] = value.t == "scalar" and value.node or number(L, node, 0)
    end
    if is_jump and #list > 0 then
        table.remove(L.out)
        list = last.exprs
    end
    emit(L, node_at(L, node, "Return", { exprs = list }))
    return true
end

return results
