-- symbols.lua: texts of which it is not known before it runs which one it is, as the state of a
-- machine, or the kind of a record. They can be put into locals, fields and results, and compared.
--
-- On the device such a text is a number: of one byte that byte, of others one that is theirs alone
-- (L.ids). In the new tree it is Symbol{node}, whose node is the number. Infer.lua refuses one, so
-- what forgets to ask for the number (`stored`) cannot compute with it by mistake.

local nodes = require "tidepool.translate.lower.nodes"

local symbols = {}

local binop, node_at, number, refuse = nodes.binop, nodes.node_at, nodes.number, nodes.refuse

local FIRST = 256 -- behind the bytes

--- Is it a text, known or not?
function symbols.is_text(node)
    return node.tag == "String" or node.tag == "Symbol" or node.tag == "Fixed" and type(node.static.value) == "string"
end
local is_text = symbols.is_text

--- The number of a text.
function symbols.id_of(ids, text)
    if #text == 1 then return text:byte() end
    if not ids[text] then
        ids.count = (ids.count or 0) + 1
        ids[text] = FIRST + ids.count
    end
    return ids[text]
end

--- Wraps a number that stands for a text. `is_char`: for one byte of a text, or "".
function symbols.wrap(L, at, node, is_char) return node_at(L, at, "Symbol", { node = node, is_char = is_char }) end

--- The number of a text; nil of other nodes.
function symbols.number_of(L, at, node)
    if node.tag == "Symbol" then return node.node end
    if not is_text(node) then return end
    if node.tag == "Fixed" then L.program.baked[node.static.key] = node.static end
    return number(L, at, symbols.id_of(L.ids, node.tag == "Fixed" and node.static.value or node.value))
end

--- What is written to a place. `marks[key]` says whether texts go there, which is found here.
function symbols.stored(L, at, marks, key, node, name)
    local made = symbols.number_of(L, at, node)
    if made and not marks[key] then
        marks[key] = true
        L.changed = true
    elseif not made and marks[key] and node.tag ~= "Nil" and not L.changed then
        refuse(L, at, "'%s' is a text in one place and a number in another; a variable has one type on a device", name)
    end
    return made or node
end

--- Two nodes of which both are texts, or none is, as numbers; and a function that wraps what is
--- made of them.
function symbols.alike(L, at, a, b)
    local x, y = symbols.number_of(L, at, a), symbols.number_of(L, at, b)
    if not x and not y then return a, b, function(node) return node end end
    if not x or not y then refuse(L, at, "a text or a number; a value has one type on a device") end
    return x, y, function(node) return symbols.wrap(L, at, node) end
end

-- May the node be a text that is made when it runs, as s:sub(i, j) or tostring(x)?
local function may_be_text(node)
    if node.tag == "Paren" then return may_be_text(node.expr) end
    if node.tag == "Method" then return node.name ~= "at" end
    if node.tag == "Binop" then return node.op == ".." end
    local fn = node.tag == "Call" and node.callee.static and node.callee.static.value
    if fn == tostring or fn == table.concat then return true end
    for _, each in pairs(string) do
        if fn and each == fn then return true end
    end
    return false
end

--- Whether two values are equal of which one is a text: a condition; nil of others.
function symbols.equal(L, at, a, b)
    local x, y = symbols.number_of(L, at, a), symbols.number_of(L, at, b)
    if not x and not y then return end
    if not x or not y then
        local other = x and b or a
        -- infer/statics.lua knows more of types
        if other.tag == "Call" and other.callee.static and other.callee.static.value == type then return end
        if may_be_text(other) then
            refuse(L, at, "a text that is made here; there are no strings on a device but those that are known beforehand, and s:sub(i, i) of them")
        end
        return node_at(L, at, "False", {})
    end
    if x.tag == "Number" and y.tag == "Number" then return node_at(L, at, x.value == y.value and "True" or "False", {}) end
    return binop(L, at, "==", x, y)
end

--- The numbers of a list of texts, as read from a captured list; nil of other values. `key`: of
--- records, the field.
function symbols.of_list(ids, value, key)
    if type(value) ~= "table" or debug.getmetatable(value) ~= nil or #value == 0 then return end
    local list = {}
    for i = 1, #value do
        local text = value[i]
        if key ~= nil then text = type(text) == "table" and text[key] end
        if type(text) ~= "string" then return end
        list[i] = symbols.id_of(ids, text)
    end
    for at in next, value do
        if type(at) == "number" and list[at] == nil then return end
    end
    return list
end

return symbols
